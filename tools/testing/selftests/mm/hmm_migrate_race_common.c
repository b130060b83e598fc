// SPDX-License-Identifier: GPL-2.0-only
/* State of hmm-migrate-race, its blocks and its area. */
#include "hmm_migrate_race_common.h"

struct control *control;
const struct scenario *scenario;
struct block *blocks;
unsigned int nr_blocks;
char *banks[BANKS], *area_start;
size_t page_size, page_words, block_size, bank_size;
int near_fd = -1, far_fd = -1, gup_fd = -1;
unsigned int near_device;
bool coherent;
uint64_t seed, salt;
unsigned long iterations = 100;
unsigned int limit = 300;
time_t started;
long swapped_before;

void must(bool ok, const char *what)
{
	if (!ok)
		complain("%s: %s\n", what, strerror(errno));
}

void must_have(bool ok, const char *what)
{
	if (ok)
		return;
	complain("%s: %s\n", what, strerror(errno));
	_exit(KSFT_FAIL);
}

void skip_all(const char *why)
{
	snprintf(control->skip, sizeof(control->skip), "%s", why);
	_exit(KSFT_SKIP);
}

/* Pages */

static struct race_page race_page_of(unsigned int page)
{
	return (struct race_page) {
		.id = seed ^ salt ^ (uint64_t)page << 32,
		.other = race_mix(seed ^ salt ^ (uint64_t)SAME_PAGE << 32),
	};
}

void fill_page(uint32_t *words, unsigned int page, uint32_t number)
{
	race_fill(words, page_words, race_key(race_page_of(page).id, number),
		  number);
}

void fill_same(uint32_t *words)
{
	race_fill(words, page_words, race_page_of(0).other, 0);
}

void fill(uint32_t *words, unsigned int b, uint32_t number)
{
	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		fill_page(words + i * page_words, b * BLOCK_PAGES + i, number);
}

/* Blocks */

char *block_address(unsigned int b)
{
	unsigned int per_bank = nr_blocks / BANKS;

	return banks[b / per_bank] + b % per_bank * block_size;
}

struct race_record *record(unsigned int b)
{
	return &blocks[b].record;
}

/* One complaint a page. Return: whether the page is right. */
static bool check_page(const char *who, unsigned int b,
		       const struct race_window *win, unsigned int nr,
		       const uint32_t *words)
{
	struct race_page page = race_page_of(nr);
	size_t i;

	switch (race_check_page(record(b), win, &page, words, page_words, &i)) {
	case RACE_RIGHT:
		control->words += page_words;
		return true;
	case RACE_TOO_LATE:
		control->unjudged++;
		return true;
	default:
		complain("%s: page %u word %zu is %#x; legal are changes %u to %u, as %#x\n",
			 who, nr, i, words[i], win->floor, win->begun,
			 race_word(race_key(page.id, win->begun), win->begun,
				   i));
		return false;
	}
}

bool check_block(const char *who, unsigned int b,
		 const struct race_window *win, const uint32_t *words)
{
	bool ok = true;

	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		ok &= check_page(who, b, win, b * BLOCK_PAGES + i,
				 words + i * page_words);
	return ok;
}

/* With "contents" held: no change is in progress. */
bool check_at_rest(const char *who, unsigned int b,
		   const uint32_t *words)
{
	struct race_window win = race_window_open(record(b));

	race_window_close(&win, record(b));
	return check_block(who, b, &win, words);
}

unsigned int pick_block(struct worker *w)
{
	return race_below(&w->random, nr_blocks);
}

/* A block without huge pages, where no invalidation covers a wide range. */
unsigned int pick_small_block(struct worker *w)
{
	return nr_blocks / 2 + race_below(&w->random, nr_blocks / 2);
}

void lock_contents(unsigned int b)
{
	pthread_mutex_lock(&blocks[b].contents);
}

void unlock_contents(unsigned int b)
{
	pthread_mutex_unlock(&blocks[b].contents);
}

void share_touch(unsigned int b)
{
	pthread_rwlock_rdlock(&blocks[b].touch);
}

void lock_touch(unsigned int b)
{
	pthread_rwlock_wrlock(&blocks[b].touch);
}

void unlock_touch(unsigned int b)
{
	pthread_rwlock_unlock(&blocks[b].touch);
}

/* Devices take "touch" only in scenarios that write in place. */
void device_lock(unsigned int b, unsigned int nr)
{
	if (scenario->flags & IN_PLACE)
		for (unsigned int i = 0; i < nr; i++)
			share_touch(b + i);
}

void device_unlock(unsigned int b, unsigned int nr)
{
	if (scenario->flags & IN_PLACE)
		for (unsigned int i = 0; i < nr; i++)
			unlock_touch(b + i);
}

void cpu_fill(unsigned int b)
{
	uint32_t number = race_change_begin(record(b), RACE_LEAVES_WORDS);

	fill((uint32_t *)block_address(b), b, number);
	race_change_end(record(b));
}

/* The pages in the device's own memory. */
struct race_local near_pages(int fd, char *addr, unsigned int nr)
{
	unsigned char perm[MOST_PAGES];

	return race_local_pages(fd, addr, nr, perm);
}

/* The area */

static char *reserve(size_t size, size_t align)
{
	char *addr = race_reserve(size, align, PROT_NONE);

	must_have(addr, "address space");
	return addr;
}

void *memory(size_t size)
{
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must_have(addr != MAP_FAILED, "memory");
	/* huge pages would change its RSS */
	madvise(addr, size, MADV_NOHUGEPAGE);
	return addr;
}

static void set_up_block(unsigned int b)
{
	int kind = PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP;
	struct block *block = &blocks[b];
	pthread_rwlockattr_t attr;

	/* readers must not starve a writer */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, kind);
	pthread_rwlock_init(&block->touch, &attr);
	pthread_mutex_init(&block->contents, NULL);
	block->record.leaves[0] = RACE_LEAVES_ZERO;
	cpu_fill(b);
}

void set_up_area(void)
{
	nr_blocks = BANKS * bank_size / block_size;
	blocks = memory(nr_blocks * sizeof(*blocks));
	area_start = reserve(BANKS * 2 * bank_size, bank_size);
	for (unsigned int i = 0; i < BANKS; i++) {
		banks[i] = area_start + i * 2 * bank_size;
		must_have(!mprotect(banks[i], bank_size,
				    PROT_READ | PROT_WRITE), "area");
		madvise(banks[i], bank_size,
			i ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	}
	for (unsigned int b = 0; b < nr_blocks; b++)
		set_up_block(b);
}

void open_devices(void)
{
	near_fd = race_open_device(near_device);
	far_fd = race_open_device(near_device + 1);
	must_have(near_fd >= 0 && far_fd >= 0, "open of the devices");
}

void set_up_worker(struct worker *w, const struct role *role,
		   unsigned int index)
{
	w->role = role;
	w->random = race_mix(seed + index + 1);
	w->buffer = memory(bank_size + page_size);
	w->spare = reserve(block_size, page_size);
	must_have(!pipe(w->pipe), "pipe");
	must_have(fcntl(w->pipe[1], F_SETPIPE_SZ, block_size) >= 0,
		  "size of a pipe");
}

void tear_down_worker(struct worker *w)
{
	munmap(w->buffer, bank_size + page_size);
	munmap(w->spare, block_size);
	close(w->pipe[0]);
	close(w->pipe[1]);
}

/* Conditions for the end */

static bool was_swapped(void)
{
	return race_read_number("/proc/vmstat", "pswpout") > swapped_before;
}

bool lacks_swap(void)
{
	return scenario->flags & NEEDS_SWAP && !was_swapped();
}

bool has_time(void)
{
	return race_now() - started < limit / 2;
}
