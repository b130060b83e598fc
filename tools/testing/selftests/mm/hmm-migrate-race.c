// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race migration to a device and back against the rest of mm.
 *
 * Each scenario is a process of its own with an area of memory. Its threads
 * migrate parts of the area, write and read it by the CPU and by a device, and
 * make the changes that the scenario is about. The oracle (hmm_race_oracle.h)
 * judges each word and each error. Each block of pages has a record. The other
 * text that a change may leave is one that all blocks share, for KSM to merge.
 *
 * Devices
 *
 *   The "near" device owns the memory that pages migrate to. The "far" device
 *   reads and writes through its mirror. There are two because the dummy driver
 *   does not lock its page table against its own migrations: it can lose its
 *   own write, and it keeps entries for pages that were zapped while it copied.
 *   So that it does not read through such entries, ranges to migrate extend
 *   into a gap without access, which makes the driver return before it reads.
 *   A write to device memory in place locks all others out of the block.
 *
 * Locks
 *
 *   Each block has a mutex "contents", held while the contents change, and then
 *   a rwlock "touch": shared by CPU accesses, exclusive for threads that take
 *   the mapping away. A device takes "touch" only in scenarios that write in place,
 *   and mm's own threads take nothing. The order is by block, and contents
 *   before touch.
 *
 * The end
 *
 *   A role goes on until it has had an effect. Time only ends a run in which it
 *   never has one, or in which nothing makes progress.
 *
 *   A scenario may leave no memory in use that was free before. When its
 *   process is gone, no page may be left on the device: HMM_DMIRROR_RELEASE,
 *   which removes the device's memory, would wait for that page for ever. A
 *   counter of the process that is wrong shows on the console when the process
 *   exits.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "hmm_race_common.h"
#include "hmm_race_oracle.h"
#include "hmm_race_pins.h"
#include "../kselftest.h"

#define BLOCK_PAGES	16
#define BANKS		2
#define MOST_BLOCKS	4
/* One call covers at most the pages of a bank and one page behind it. */
#define MOST_BANK_PAGES	512
#define MOST_PAGES	(MOST_BANK_PAGES + 1)
#define MAX_WORKERS	24
#define MAX_SETS	5
#define MAX_ROLES	12

/* The page that the text for KSM pretends to be of. */
#define SAME_PAGE	0xffff

struct block {
	pthread_mutex_t contents;
	pthread_rwlock_t touch;
	struct race_record record;
};

struct worker;

/**
 * struct role - the work of some threads of a scenario
 * @name: for the report
 * @op: one operation; returns whether it had an effect
 * @threads: number of threads
 * @share: operations of each thread, in per cent of the iterations; 0: as long
 *	as other roles have work
 */
struct role {
	const char *name;
	bool (*op)(struct worker *w);
	unsigned int threads;
	unsigned int share;
};

/* Properties of a scenario */
#define DISCARDS	1	/* there can be holes: migrate into the gap */
#define IN_PLACE	2	/* the near device writes to its own memory */
#define NEEDS_SWAP	4
#define NEEDS_KSM	8
#define NEEDS_GUP	16
#define NEEDS_MEMCG	32
#define INTERRUPTS	64
#define UNLOCKED_EXCLUSIVE 128	/* pages become exclusive without a lock */

struct scenario {
	const char *name;
	unsigned int flags;
	const struct role *sets[MAX_SETS];
	struct role roles[MAX_ROLES];
	void (*body)(void);
};

struct worker {
	pthread_t thread;
	const struct role *role;
	uint64_t random;
	uint32_t *buffer;
	char *spare;		/* move() moves a block there */
	int pipe[2];
	unsigned long tried, done;
	struct worker *first;	/* of this role */
	_Atomic bool effect;	/* of the role, kept by the first */
};

/* Shared by the harness, the process of a scenario, and its children. */
static struct control {
	_Atomic unsigned int complaints;
	_Atomic unsigned long progress;
	_Atomic unsigned long words, unjudged, busy;
	char skip[128];
} *control;

static const struct scenario *scenario;
static struct block *blocks;
static unsigned int nr_blocks;
static char *banks[BANKS];
static char *area_start;
static size_t page_size, page_words, block_size, bank_size;
static int near_fd = -1, far_fd = -1, gup_fd = -1;
static unsigned int near_device;
static bool coherent;
static pthread_rwlock_t plug =
	PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static uint64_t seed, salt;
static unsigned long iterations = 100;
static unsigned int limit = 300;	/* seconds without progress */
static _Atomic unsigned int leaders;
static _Atomic unsigned int roles_without_effect;
static time_t started;
static long swapped_before;

/* Reporting: safe in a child of a process with threads. */

/* A failure to report is a complaint, too. */
#define note(...)	((void)(race_note(__VA_ARGS__) || control->complaints++))
#define finding(...)	((void)(race_finding(__VA_ARGS__) || control->complaints++))

/* The first few say enough. */
#define complain(...)							\
	do {								\
		if (control->complaints++ < 10)				\
			finding(__VA_ARGS__);				\
	} while (0)

static void must(bool ok, const char *what)
{
	if (!ok)
		complain("%s: %s\n", what, strerror(errno));
}

static void must_have(bool ok, const char *what)
{
	if (ok)
		return;
	complain("%s: %s\n", what, strerror(errno));
	_exit(KSFT_FAIL);
}

static void skip_all(const char *why)
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

static void fill_page(uint32_t *words, unsigned int page, uint32_t number)
{
	race_fill(words, page_words, race_key(race_page_of(page).id, number),
		  number);
}

static void fill_same(uint32_t *words)
{
	race_fill(words, page_words, race_page_of(0).other, 0);
}

static void fill(uint32_t *words, unsigned int b, uint32_t number)
{
	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		fill_page(words + i * page_words, b * BLOCK_PAGES + i, number);
}

/* Blocks */

static char *block_address(unsigned int b)
{
	unsigned int per_bank = nr_blocks / BANKS;

	return banks[b / per_bank] + b % per_bank * block_size;
}

static struct race_record *record(unsigned int b)
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

static bool check_block(const char *who, unsigned int b,
			const struct race_window *win, const uint32_t *words)
{
	bool ok = true;

	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		ok &= check_page(who, b, win, b * BLOCK_PAGES + i,
				 words + i * page_words);
	return ok;
}

/* With "contents" held: no change is in progress. */
static bool check_at_rest(const char *who, unsigned int b,
			  const uint32_t *words)
{
	struct race_window win = race_window_open(record(b));

	race_window_close(&win, record(b));
	return check_block(who, b, &win, words);
}

static unsigned int pick_block(struct worker *w)
{
	return race_below(&w->random, nr_blocks);
}

/* A block without huge pages, where no invalidation covers a wide range. */
static unsigned int pick_small_block(struct worker *w)
{
	return nr_blocks / 2 + race_below(&w->random, nr_blocks / 2);
}

static void lock_contents(unsigned int b)
{
	pthread_mutex_lock(&blocks[b].contents);
}

static void unlock_contents(unsigned int b)
{
	pthread_mutex_unlock(&blocks[b].contents);
}

static void share_touch(unsigned int b)
{
	pthread_rwlock_rdlock(&blocks[b].touch);
}

static void lock_touch(unsigned int b)
{
	pthread_rwlock_wrlock(&blocks[b].touch);
}

static void unlock_touch(unsigned int b)
{
	pthread_rwlock_unlock(&blocks[b].touch);
}

/* Devices take "touch" only in scenarios that write in place. */
static void device_lock(unsigned int b, unsigned int nr)
{
	if (scenario->flags & IN_PLACE)
		for (unsigned int i = 0; i < nr; i++)
			share_touch(b + i);
}

static void device_unlock(unsigned int b, unsigned int nr)
{
	if (scenario->flags & IN_PLACE)
		for (unsigned int i = 0; i < nr; i++)
			unlock_touch(b + i);
}

/* The CPU */

static void cpu_fill(unsigned int b)
{
	uint32_t number = race_change_begin(record(b), RACE_LEAVES_WORDS);

	fill((uint32_t *)block_address(b), b, number);
	race_change_end(record(b));
}

static bool cpu_write(struct worker *w)
{
	unsigned int b = pick_block(w);

	lock_contents(b);
	share_touch(b);
	cpu_fill(b);
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static bool cpu_read_block(struct worker *w, unsigned int b)
{
	struct race_window win;

	share_touch(b);
	win = race_window_open(record(b));
	memcpy(w->buffer, block_address(b), block_size);
	race_window_close(&win, record(b));
	unlock_touch(b);
	return check_block("CPU read", b, &win, w->buffer);
}

static bool cpu_read(struct worker *w)
{
	return cpu_read_block(w, pick_block(w));
}

/* The far device */

static void check_error(const char *who, unsigned int b,
			const struct race_window *win, enum race_access access)
{
	int error = errno;

	if (error == EBUSY)
		control->busy++;
	else if (!race_was_barred(win, record(b), access))
		complain("%s of block %u: %s without a cause\n", who, b,
			 strerror(error));
}

static bool far_read_block(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));
	int ret;

	device_lock(b, 1);
	ret = race_device(far_fd, HMM_DMIRROR_READ, block_address(b),
			  BLOCK_PAGES, w->buffer);
	device_unlock(b, 1);
	if (ret) {
		check_error("device read", b, &win, RACE_READ);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("device read", b, &win, w->buffer);
}

static bool far_read(struct worker *w)
{
	return far_read_block(w, pick_block(w));
}

/* Under "contents". If the device fails, the CPU writes. */
static bool far_write_block(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));
	uint32_t number = race_change_begin(record(b), RACE_LEAVES_WORDS);
	int ret;

	fill(w->buffer, b, number);
	device_lock(b, 1);
	ret = race_device(far_fd, HMM_DMIRROR_WRITE, block_address(b),
			  BLOCK_PAGES, w->buffer);
	device_unlock(b, 1);
	if (ret) {
		check_error("device write", b, &win, RACE_WRITE);
		share_touch(b);
		fill((uint32_t *)block_address(b), b, number);
		unlock_touch(b);
	}
	race_change_end(record(b));
	return !ret;
}

static bool far_write(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool ok;

	lock_contents(b);
	ok = far_write_block(w, b);
	unlock_contents(b);
	return ok;
}

/* The near device */

/* The pages in the device's own memory. */
static struct race_local near_pages(int fd, char *addr, unsigned int nr)
{
	unsigned char perm[MOST_PAGES];

	return race_local_pages(fd, addr, nr, perm);
}

static bool is_near(int fd, char *addr)
{
	return near_pages(fd, addr, BLOCK_PAGES).pages > 0;
}

/*
 * Other threads take pages back at once. Return: true if the device has read
 * some in its memory, or if some are still there.
 */
static bool migrate_near(char *addr, size_t pages, void *buffer)
{
	size_t done;

	return !race_device_counted(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr,
				    pages, buffer, &done) || done ||
	       near_pages(near_fd, addr, pages).pages;
}

struct part {
	unsigned int b;
	unsigned int blocks;
	size_t pages;
};

/* Some blocks of one bank, with DISCARDS up to the gap behind it. */
static struct part pick_part(struct worker *w)
{
	struct part part = { .b = pick_block(w) };
	unsigned int per_bank = nr_blocks / BANKS;
	unsigned int left = per_bank - part.b % per_bank;

	part.blocks = 1 + race_below(&w->random, MOST_BLOCKS);
	if (scenario->flags & DISCARDS || part.blocks > left)
		part.blocks = left;
	part.pages = part.blocks * BLOCK_PAGES;
	if (scenario->flags & DISCARDS)
		part.pages++;
	return part;
}

static bool to_device(struct worker *w)
{
	struct part part = pick_part(w);
	char *addr = block_address(part.b);
	bool moved;

	pthread_rwlock_rdlock(&plug);
	moved = migrate_near(addr, part.pages, w->buffer);
	pthread_rwlock_unlock(&plug);
	return moved;
}

static bool to_system(struct worker *w)
{
	struct part part = pick_part(w);
	int ret;

	device_lock(part.b, part.blocks);
	ret = race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_SYS,
			  block_address(part.b), part.pages, w->buffer);
	device_unlock(part.b, part.blocks);
	return !ret || scenario->flags & DISCARDS;
}

/*
 * All others are locked out of the block, and all its pages are on the device
 * and writable when the write begins. Otherwise the dummy driver would fault on
 * its own pages, which it does not support. The first page is left out, since
 * the driver forgets one page too many when memory before it is invalidated.
 */
static bool write_near_memory(struct worker *w, unsigned int b)
{
	char *addr = block_address(b) + page_size;
	unsigned int nr = BLOCK_PAGES - 1;
	uint32_t number;
	bool ok;

	if (race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr,
			w->buffer) ||
	    near_pages(near_fd, addr, nr).writable != nr)
		return false;
	number = race_change_begin(record(b), RACE_LEAVES_WORDS);
	fill(w->buffer, b, number);
	ok = !race_device(near_fd, HMM_DMIRROR_WRITE, addr, nr,
			  w->buffer + page_words);
	must(ok, "device write in place");
	fill_page((uint32_t *)block_address(b), b * BLOCK_PAGES, number);
	if (ok)
		race_change_end(record(b));
	else
		cpu_fill(b);
	return ok;
}

static bool near_write(struct worker *w)
{
	unsigned int b = pick_small_block(w);
	bool ok;

	lock_contents(b);
	lock_touch(b);
	cpu_fill(b);
	if (scenario->flags & DISCARDS && race_below(&w->random, 2)) {
		race_change_begin(record(b), RACE_LEAVES_ZERO);
		must(!madvise(block_address(b), block_size, MADV_FREE),
		     "MADV_FREE");
	}
	ok = write_near_memory(w, b);
	unlock_touch(b);
	if (ok && race_below(&w->random, 2)) {
		share_touch(b);
		check_at_rest("CPU read of device memory", b,
			      (uint32_t *)block_address(b));
		unlock_touch(b);
	}
	unlock_contents(b);
	return ok;
}

/* Changes of the mapping and of the pages */

static bool discard(struct worker *w)
{
	unsigned int b = pick_block(w);

	lock_contents(b);
	race_change_begin(record(b), RACE_LEAVES_ZERO);
	must(!madvise(block_address(b), block_size, MADV_DONTNEED),
	     "MADV_DONTNEED");
	race_change_end(record(b));
	unlock_contents(b);
	return true;
}

static bool let_free(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool wide;

	lock_contents(b);
	wide = race_window_is_wide(record(b));
	if (!wide) {
		race_change_begin(record(b), RACE_LEAVES_ZERO);
		must(!madvise(block_address(b), block_size, MADV_FREE),
		     "MADV_FREE");
	}
	unlock_contents(b);
	return !wide;
}

static bool page_out(struct worker *w)
{
	return !madvise(block_address(pick_block(w)), block_size,
			MADV_PAGEOUT);
}

static bool was_swapped(void)
{
	return race_read_number("/proc/vmstat", "pswpout") > swapped_before;
}

static bool lacks_swap(void)
{
	return scenario->flags & NEEDS_SWAP && !was_swapped();
}

static bool map_block(char *addr, unsigned int b, int flags)
{
	if (mmap(addr, block_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0) != addr)
		return false;
	return !madvise(addr, block_size, b < nr_blocks / 2 ?
			MADV_HUGEPAGE : MADV_NOHUGEPAGE) || errno == EINVAL;
}

static bool remap(struct worker *w)
{
	unsigned int b = pick_block(w);
	char *addr = block_address(b);

	lock_contents(b);
	lock_touch(b);
	race_bar(record(b), RACE_READ);
	race_change_begin(record(b), RACE_LEAVES_ZERO);
	if (race_below(&w->random, 2)) {
		must(!munmap(addr, block_size), "munmap");
		must(map_block(addr, b, MAP_FIXED_NOREPLACE), "mmap");
	} else {
		must(map_block(addr, b, MAP_FIXED), "mmap over it");
	}
	race_change_end(record(b));
	race_unbar(record(b), RACE_READ);
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static void move_block(char *from, char *to)
{
	must(mremap(from, block_size, block_size,
		    MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
}

/* To other addresses, there to the device and back, and to its place again. */
static bool move(struct worker *w)
{
	unsigned int b = pick_block(w);
	char *addr = block_address(b);
	bool moved;

	lock_contents(b);
	lock_touch(b);
	race_bar(record(b), RACE_READ);
	move_block(addr, w->spare);
	moved = !race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, w->spare,
			     BLOCK_PAGES, w->buffer) ||
		is_near(near_fd, w->spare);
	if (race_below(&w->random, 2))
		check_at_rest("CPU read of moved memory", b,
			      (uint32_t *)w->spare);
	move_block(w->spare, addr);
	must(mmap(w->spare, block_size, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w->spare,
	     "mmap of the spare");
	race_unbar(record(b), RACE_READ);
	unlock_touch(b);
	unlock_contents(b);
	return moved;
}

/* A write that must fail takes no number: its words would be illegal. */
static void try_forbidden_write(struct worker *w, unsigned int b)
{
	memset(w->buffer, 0xee, block_size);
	if (!race_device(far_fd, HMM_DMIRROR_WRITE, block_address(b),
			 BLOCK_PAGES, w->buffer))
		complain("a device writes to block %u, which is read-only\n",
			 b);
}

static bool protect(struct worker *w)
{
	unsigned int b = pick_block(w);
	int prot = race_below(&w->random, 3) ? PROT_READ : PROT_NONE;
	enum race_access barred = prot & PROT_READ ? RACE_WRITE : RACE_READ;
	char *addr = block_address(b);
	bool alone = race_below(&w->random, 2);

	if (alone)
		lock_contents(b);
	lock_touch(b);
	race_bar(record(b), barred);
	must(!mprotect(addr, block_size, prot), "mprotect");
	if (alone)
		try_forbidden_write(w, b);
	if (alone && prot == PROT_READ)
		check_at_rest("CPU read of read-only memory", b,
			      (uint32_t *)addr);
	must(!mprotect(addr, block_size, PROT_READ | PROT_WRITE),
	     "mprotect back");
	race_unbar(record(b), barred);
	unlock_touch(b);
	if (alone)
		unlock_contents(b);
	return true;
}

/* Every second page can be merged with others; the rest can be migrated. */
static bool write_same(struct worker *w)
{
	unsigned int b = pick_block(w);
	uint32_t *words = (uint32_t *)block_address(b);
	uint32_t number;

	lock_contents(b);
	share_touch(b);
	number = race_change_begin(record(b),
				   RACE_LEAVES_OTHER | RACE_LEAVES_WORDS);
	for (unsigned int i = 0; i < BLOCK_PAGES; i += 2) {
		fill_same(words + i * page_words);
		fill_page(words + (i + 1) * page_words,
			  b * BLOCK_PAGES + i + 1, number);
	}
	race_change_end(record(b));
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static bool compact(struct worker *w)
{
	return !race_write_file("/proc/sys/vm/compact_memory", "1");
}

/* Pins */

/*
 * FOLL_WRITE: gup_test warns of pins of the zero page, which are not counted.
 */
static bool pin_short(struct worker *w)
{
	unsigned int flags = FOLL_WRITE;

	if (!(scenario->flags & DISCARDS) && race_below(&w->random, 2))
		flags = 0;
	return race_pin_briefly(gup_fd, block_address(pick_block(w)),
				block_size, &w->random, flags);
}

/* A pipe holds the pages of the process, so it sees a later write. */
static bool splice_out(struct worker *w)
{
	unsigned int b = pick_block(w);
	struct iovec part = { block_address(b), block_size };
	char *to = (char *)w->buffer;
	ssize_t held, got = 0, nr = 0;

	lock_contents(b);
	share_touch(b);
	held = vmsplice(w->pipe[1], &part, 1, SPLICE_F_NONBLOCK);
	cpu_fill(b);
	unlock_touch(b);
	for (; got < held && nr >= 0; got += nr)
		nr = read(w->pipe[0], to + got, held - got);
	if (held == (ssize_t)block_size)
		check_at_rest("read of spliced pages", b, w->buffer);
	else
		must(held >= 0, "vmsplice");
	unlock_contents(b);
	return held == (ssize_t)block_size;
}

static void check_pinned(struct worker *w, const char *who, unsigned int b)
{
	uint64_t to = (uintptr_t)w->buffer;

	if (ioctl(gup_fd, PIN_LONGTERM_TEST_READ, &to))
		complain("read through a pin: %s\n", strerror(errno));
	else
		check_at_rest(who, b, w->buffer);
}

/* A read through the pin sees the writes of the CPU and of the device. */
static bool pin_long(struct worker *w)
{
	unsigned int b = pick_block(w);
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)block_address(b),
		.size = block_size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	bool pinned;

	if (race_below(&w->random, 2))
		pin.flags |= PIN_LONGTERM_TEST_FLAG_USE_FAST;
	lock_contents(b);
	pinned = !ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin);
	if (pinned) {
		check_pinned(w, "pinned pages", b);
		share_touch(b);
		cpu_fill(b);
		unlock_touch(b);
		check_pinned(w, "pinned pages after a CPU write", b);
		far_write_block(w, b);
		check_pinned(w, "pinned pages after a device write", b);
		ioctl(gup_fd, PIN_LONGTERM_TEST_STOP);
	}
	unlock_contents(b);
	return pinned;
}

/* Exclusive access */

static bool make_exclusive(struct worker *w, unsigned int b)
{
	struct race_window win = race_window_open(record(b));

	if (race_device(far_fd, HMM_DMIRROR_EXCLUSIVE, block_address(b),
			BLOCK_PAGES, w->buffer)) {
		/* revoked before the device could read */
		if (errno != ENOENT)
			check_error("exclusive access", b, &win, RACE_WRITE);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("exclusive read", b, &win, w->buffer);
}

static bool exclusive(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool ok;

	if (scenario->flags & UNLOCKED_EXCLUSIVE)
		return make_exclusive(w, b);
	lock_contents(b);
	ok = make_exclusive(w, b);
	unlock_contents(b);
	return ok;
}

static bool is_exclusive(unsigned int b)
{
	return race_device(far_fd, HMM_DMIRROR_CHECK_EXCLUSIVE,
			   block_address(b), BLOCK_PAGES, NULL) &&
	       errno == EPERM;
}

/* A write of the CPU revokes the exclusive access. */
static bool take_back(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool had;

	lock_contents(b);
	share_touch(b);
	had = make_exclusive(w, b) && is_exclusive(b);
	cpu_fill(b);
	if (is_exclusive(b))
		complain("block %u is exclusive after the CPU wrote to it\n",
			 b);
	unlock_touch(b);
	unlock_contents(b);
	return had;
}

/* Fork */

/* The child's own words, which are illegal for the parent, and vice versa. */
static int child_write(struct worker *w, unsigned int b, int fd)
{
	int ret;

	salt = race_mix(getpid());
	cpu_fill(b);
	if (fd < 0)
		return 0;
	race_change_begin(record(b), RACE_LEAVES_WORDS);
	fill(w->buffer, b, record(b)->begun);
	/* a part of the block, so that the rest remains to be copied */
	race_wait_for(!(ret = race_device(fd, HMM_DMIRROR_WRITE,
					  block_address(b), BLOCK_PAGES / 2,
					  w->buffer)) || errno != EBUSY,
		      limit / 2);
	if (ret)
		complain("device write of a child: %s\n", strerror(errno));
	return ret;
}

static void child_migrate(struct worker *w, unsigned int b, int fd)
{
	char *addr = block_address(b);

	if (fd < 0)
		return;
	race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, BLOCK_PAGES,
		    w->buffer);
	control->progress += is_near(fd, addr);
}

/*
 * The child shares the parent's table of files, so the devices that it opens
 * stay open in the parent. Pages of both may refer to the child's device, which
 * the dummy driver would otherwise free while they are in use.
 */
static int child(struct worker *w, unsigned int b)
{
	const uint32_t *words = (uint32_t *)block_address(b);
	bool device = race_below(&w->random, 2);
	int near = device ? race_open_device(near_device) : -1;
	int far = device ? race_open_device(near_device + 1) : -1;
	bool ok;

	if (device && (near < 0 || far < 0)) {
		complain("open of a device after fork: %s\n",
			 strerror(errno));
		return 1;
	}
	if (race_below(&w->random, 2))
		child_migrate(w, b, near);
	ok = check_at_rest("copy of the parent's memory", b, words);
	ok &= !child_write(w, b, far);
	child_migrate(w, b, near);
	ok &= check_at_rest("memory after fork", b, words);
	return ok ? 0 : 1;
}

static bool fork_child(struct worker *w)
{
	unsigned int b = pick_block(w);
	int status = 0;
	pid_t pid;

	w->random = race_mix(w->random);
	lock_contents(b);
	share_touch(b);	/* the child must find it accessible */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		_exit(child(w, b));
	unlock_touch(b);
	unlock_contents(b);
	must(pid > 0, "fork");
	if (pid <= 0)
		return false;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		complain("a child ends by signal %d\n", WTERMSIG(status));
	return !status;
}

/* Remove the device's memory while all others go on. */
static bool unplug(struct worker *w)
{
	int ret;

	race_pause_ms(1 + race_below(&w->random, 20));
	pthread_rwlock_wrlock(&plug);
	ret = race_device(near_fd, HMM_DMIRROR_RELEASE, NULL, 1, NULL);
	pthread_rwlock_unlock(&plug);
	must(!ret, "release of the device's memory");
	return !ret;
}

/* The area */

static char *reserve(size_t size, size_t align)
{
	char *addr = race_reserve(size, align, PROT_NONE);

	must_have(addr, "address space");
	return addr;
}

static void *memory(size_t size)
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

static void set_up_area(void)
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

static void open_devices(void)
{
	near_fd = race_open_device(near_device);
	far_fd = race_open_device(near_device + 1);
	must_have(near_fd >= 0 && far_fd >= 0, "open of the devices");
}

static void set_up_worker(struct worker *w, const struct role *role,
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

static void tear_down_worker(struct worker *w)
{
	munmap(w->buffer, bank_size + page_size);
	munmap(w->spare, block_size);
	close(w->pipe[0]);
	close(w->pipe[1]);
}

/* Read all blocks when nothing moves any more. */
static void check_all(struct worker *w)
{
	for (unsigned int b = 0; b < nr_blocks; b++) {
		check_at_rest("CPU read at the end", b,
			      (uint32_t *)block_address(b));
		if (!race_wait_for(far_read_block(w, b) || control->complaints,
				   limit / 2))
			complain("block %u at rest: device read fails\n", b);
	}
}

/* Running the roles */

static void on_signal(int signal)
{
}

static bool has_time(void)
{
	return race_now() - started < limit / 2;
}

/*
 * A leader has a quota, and goes on until each role has had an effect. With few
 * iterations, one may have met only blocks that others held.
 */
static bool has_work(const struct worker *w, unsigned long quota)
{
	if (!quota)
		return leaders > 0;
	return w->tried < quota ||
	       ((roles_without_effect || lacks_swap()) && has_time());
}

static void do_work(struct worker *w)
{
	w->tried++;
	control->progress++;
	if (!w->role->op(w))
		return;
	w->done++;
	if (!atomic_exchange(&w->first->effect, true))
		roles_without_effect--;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	unsigned long quota = iterations * w->role->share / 100;

	if (w->role->share && !quota)
		quota = 1;
	while (has_work(w, quota))
		do_work(w);
	if (quota)
		leaders--;
	return NULL;
}

/* Signal all threads in turn; the handler does nothing. */
static void interrupt(struct worker *workers, unsigned int nr)
{
	unsigned int next = 0;

	while (leaders) {
		pthread_kill(workers[next++ % nr].thread, SIGUSR1);
		race_pause_ms(1);
	}
}

static unsigned int start_role(struct worker *workers, unsigned int nr,
			       const struct role *role)
{
	struct worker *first = &workers[nr];

	must_have(nr + role->threads <= MAX_WORKERS, "too many threads");
	for (unsigned int i = 0; i < role->threads; i++, nr++) {
		set_up_worker(&workers[nr], role, nr);
		workers[nr].first = first;
	}
	leaders += role->share ? role->threads : 0;
	roles_without_effect++;
	return nr;
}

static unsigned int start_roles(struct worker *workers)
{
	struct sigaction action = { .sa_handler = on_signal };
	const struct role *const *set, *role;
	unsigned int nr = 0;

	sigaction(SIGUSR1, &action, NULL);
	started = race_now();
	for (set = scenario->sets; *set; set++)
		for (role = *set; role->op; role++)
			nr = start_role(workers, nr, role);
	for (role = scenario->roles; role->op; role++)
		nr = start_role(workers, nr, role);
	for (unsigned int i = 0; i < nr; i++)
		must_have(!pthread_create(&workers[i].thread, NULL, work,
					  &workers[i]), "thread");
	return nr;
}

/* Fewer attempts, on a slow machine, say nothing about a role. */
#define FAIR_TRIES	20

/* The threads of a role follow each other in the array. */
static unsigned int report_role(const struct worker *workers, unsigned int i,
				unsigned int nr, char *line, size_t room)
{
	const struct role *role = workers[i].role;
	unsigned long tried = 0, done = 0;

	for (; i < nr && workers[i].role == role; i++) {
		tried += workers[i].tried;
		done += workers[i].done;
	}
	snprintf(line, room, "%s %lu/%lu, ", role->name, done, tried);
	if (!done && tried >= FAIR_TRIES)
		complain("%s: no effect in %lu attempts\n", role->name, tried);
	return i;
}

static void report_roles(const struct worker *workers, unsigned int nr)
{
	char line[400] = "";
	size_t length;

	for (unsigned int i = 0; i < nr;) {
		length = strlen(line);
		i = report_role(workers, i, nr, line + length,
				sizeof(line) - length);
	}
	note("%s%lu words right, %lu not judged, %lu busy\n", line,
	     control->words, control->unjudged, control->busy);
}

static void run_roles(void)
{
	static struct worker workers[MAX_WORKERS];
	unsigned int nr = start_roles(workers);

	if (scenario->flags & INTERRUPTS)
		interrupt(workers, nr);
	for (unsigned int i = 0; i < nr; i++)
		pthread_join(workers[i].thread, NULL);
	check_all(&workers[0]);
	report_roles(workers, nr);
	for (unsigned int i = 0; i < nr; i++)
		tear_down_worker(&workers[i]);
}

/* Many threads fault on the same pages */

#define FAULTERS	8

static struct faulting {
	pthread_barrier_t barrier;
	_Atomic unsigned long additions;	/* to each page */
	_Atomic bool freely;			/* no longer in step */
	_Atomic bool over;
} faulting;

/* Every second thread begins at the other end. */
static void add_to_pages(unsigned int thread)
{
	unsigned int nr = MOST_BLOCKS * BLOCK_PAGES;

	for (unsigned int i = 0; i < nr; i++) {
		unsigned int page = thread & 1 ? nr - 1 - i : i;
		_Atomic uint64_t *word = (_Atomic uint64_t *)(banks[1] +
							page * page_size);

		(*word)++;
	}
	faulting.additions++;
}

/* First in step, so that all threads find all pages on the device. */
static void *faulter(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&faulting.barrier);
		if (faulting.freely)
			break;
		add_to_pages((uintptr_t)arg);
		pthread_barrier_wait(&faulting.barrier);
	}
	while (!faulting.over)
		add_to_pages((uintptr_t)arg);
	return NULL;
}

static void check_sums(const char *when)
{
	for (unsigned int i = 0; i < MOST_BLOCKS * BLOCK_PAGES; i++) {
		uint64_t word = *(uint64_t *)(banks[1] + i * page_size);

		if (word != faulting.additions)
			complain("page %u: %llu of %lu additions, %s\n", i,
				 (unsigned long long)word, faulting.additions,
				 when);
	}
}

static unsigned long move_all(unsigned long direction, struct worker *w)
{
	unsigned int nr = MOST_BLOCKS * BLOCK_PAGES;

	race_device(near_fd, direction, banks[1], nr, w->buffer);
	control->progress++;
	return near_pages(near_fd, banks[1], nr).pages;
}

/* At least as many rounds as iterations, and until pages were on the device. */
static bool needs_round(unsigned long round, unsigned long on_device)
{
	return round < iterations || (!on_device && has_time());
}

static unsigned long fault_in_step(struct worker *w)
{
	unsigned long on_device = 0;

	for (unsigned long i = 0; needs_round(i, on_device); i++) {
		on_device += move_all(HMM_DMIRROR_MIGRATE_TO_DEV, w);
		pthread_barrier_wait(&faulting.barrier);
		pthread_barrier_wait(&faulting.barrier);
		check_sums("in step");
	}
	return on_device;
}

static unsigned long fault_freely(struct worker *w)
{
	unsigned long on_device = 0;

	faulting.freely = true;
	pthread_barrier_wait(&faulting.barrier);
	for (unsigned long i = 0; needs_round(i, on_device); i++) {
		on_device += move_all(HMM_DMIRROR_MIGRATE_TO_DEV, w);
		if (!race_below(&w->random, 4))
			move_all(HMM_DMIRROR_MIGRATE_TO_SYS, w);
	}
	faulting.over = true;
	return on_device;
}

static void fault_together(void)
{
	pthread_t threads[FAULTERS];
	unsigned long step, freely;
	struct worker w = {};

	set_up_worker(&w, NULL, 0);
	started = race_now();
	memset(banks[1], 0, MOST_BLOCKS * block_size);
	pthread_barrier_init(&faulting.barrier, NULL, FAULTERS + 1);
	for (uintptr_t i = 0; i < FAULTERS; i++)
		must_have(!pthread_create(&threads[i], NULL, faulter,
					  (void *)i), "thread");
	step = fault_in_step(&w);
	freely = fault_freely(&w);
	for (unsigned int i = 0; i < FAULTERS; i++)
		pthread_join(threads[i], NULL);
	check_sums("at the end");
	note("%lu pages on the device in step, then %lu; %lu additions to each\n",
	     step, freely, faulting.additions);
	if (!step || !freely)
		complain("no page was on the device in any round\n");
	tear_down_worker(&w);
}

/* The device gets full */

/* The dummy driver adds as much at once. */
#define CHUNK_SIZE	(256UL << 20)
#define FILLERS		4
#define EXCESS		64

static struct filling {
	char *area;
	size_t pages;
	size_t each;
} filling;

static char *filled_page(size_t page)
{
	return filling.area + page * page_size;
}

/* Calls @op for the parts of some pages, one after the other. */
static size_t for_parts(size_t first, size_t end, void *buffer,
			size_t (*op)(char *addr, size_t nr, void *buffer))
{
	size_t step = MOST_BLOCKS * BLOCK_PAGES, sum = 0;

	for (; first < end; first += step) {
		sum += op(filled_page(first),
			  end - first < step ? end - first : step, buffer);
		control->progress++;
	}
	return sum;
}

static size_t fill_part(char *addr, size_t nr, void *buffer)
{
	return race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr,
			   buffer);
}

static size_t empty_part(char *addr, size_t nr, void *buffer)
{
	return race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_SYS, addr, nr,
			   buffer);
}

/* For pages that did not move because of a temporary reference. */
static size_t top_up_part(char *addr, size_t nr, void *buffer)
{
	size_t found = near_pages(near_fd, addr, nr).pages;

	if (found == nr)
		return found;
	fill_part(addr, nr, buffer);
	return near_pages(near_fd, addr, nr).pages;
}

/* Return: pages on the device, from page @first on. */
static size_t top_up(size_t first, size_t wanted, void *buffer)
{
	size_t found = 0;

	race_wait_for((found = for_parts(first, filling.pages, buffer,
					 top_up_part)) >= wanted, limit / 2);
	return found;
}

static void *filler(void *arg)
{
	size_t first = (uintptr_t)arg * filling.each;
	size_t end = first + filling.each;
	void *buffer = memory(MOST_BLOCKS * block_size);

	for_parts(first, end < filling.pages ? end : filling.pages, buffer,
		  fill_part);
	munmap(buffer, MOST_BLOCKS * block_size);
	return NULL;
}

/*
 * One page in sixteen has contents. The others are holes, which become zeroes
 * on the device. Two words are enough to tell a page from all others.
 */
#define MARK_STEP	16

static void mark_pages(void)
{
	size_t last = page_size / sizeof(uint64_t) - 1;

	for (size_t i = 0; i < filling.pages; i += MARK_STEP) {
		uint64_t *words = (uint64_t *)filled_page(i);

		words[0] = race_mix(seed + i);
		words[last] = ~words[0];
	}
}

static void check_marks(size_t missing)
{
	size_t last = page_size / sizeof(uint64_t) - 1;

	for (size_t i = 0; i < filling.pages; i += MARK_STEP / 2) {
		uint64_t *words = (uint64_t *)filled_page(i);
		bool zero = i % MARK_STEP || i == missing;
		uint64_t mark = zero ? 0 : race_mix(seed + i);

		if (words[0] != mark || words[last] != (zero ? 0 : ~mark))
			complain("page %zu is not what it was: %#llx\n", i,
				 (unsigned long long)words[0]);
	}
}

/* A full device can reuse a page that was freed. */
static void replace_one(size_t full, void *buffer)
{
	size_t again;

	must(!madvise(filling.area, page_size, MADV_DONTNEED),
	     "MADV_DONTNEED");
	/* a system page, since a hole would be filled on the device */
	memset(filling.area, 0, page_size);
	again = top_up(1, full, buffer);
	if (again != full)
		complain("%zu pages on the device after one was freed and taken, not %zu\n",
			 again, full);
}

static void fill_by_threads(void)
{
	pthread_t threads[FILLERS];

	for (uintptr_t i = 0; i < FILLERS; i++)
		must_have(!pthread_create(&threads[i], NULL, filler,
					  (void *)i), "thread");
	for (unsigned int i = 0; i < FILLERS; i++)
		pthread_join(threads[i], NULL);
}

/*
 * The driver adds private memory in chunks, so this fills more than one chunk.
 * There is one chunk of coherent memory.
 */
static void fill_up(void)
{
	size_t chunk = CHUNK_SIZE / page_size, full, found, size;
	void *buffer = memory(MOST_BLOCKS * block_size);

	filling.pages = chunk + EXCESS;
	filling.each = filling.pages / FILLERS + 1;
	size = filling.pages * page_size;
	filling.area = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (filling.area == MAP_FAILED)
		skip_all("not enough memory to fill a device");
	/* a mark must not fault in a huge page */
	madvise(filling.area, size, MADV_NOHUGEPAGE);
	full = coherent ? chunk : filling.pages;
	mark_pages();
	fill_by_threads();
	found = top_up(0, full, buffer);
	note("%zu of %zu pages on the device\n", found, filling.pages);
	if (found != full)
		complain("%zu pages on the device, not %zu\n", found, full);
	if (coherent)
		replace_one(full, buffer);
	/* some by a call, the others by faults, or in place */
	for_parts(0, filling.pages / 8, buffer, empty_part);
	check_marks(coherent ? 0 : SIZE_MAX);
	munmap(filling.area, size);
	munmap(buffer, MOST_BLOCKS * block_size);
}

/* Processes are killed at any time */

static void be_killed(void)
{
	static struct worker workers[MAX_WORKERS];

	open_devices();
	set_up_area();
	leaders = UINT_MAX / 2;	/* none is the last to have work */
	start_roles(workers);
	for (;;)
		pause();
}

static void kill_children(void)
{
	unsigned long kills = iterations / 5 + 1;
	uint64_t random = seed;

	for (unsigned long i = 0; i < kills; i++) {
		unsigned long until;
		int status = 0;
		pid_t pid;

		until = control->progress + race_below(&random, 60);
		pid = fork();
		if (!pid)
			be_killed();
		must_have(pid > 0, "fork");
		while (control->progress < until &&
		       !waitpid(pid, &status, WNOHANG))
			race_pause_ms(1);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			complain("a child ends by itself, status %#x\n",
				 status);
	}
	note("%lu processes killed\n", kills);
}

/* Setting up the system for a scenario, and checking it afterwards */

#define MEMCG		"/sys/fs/cgroup/hmm-migrate-race"
/* Slab may outlive its process. */
#define MEMCG_REST	(512L << 10)

/* A quarter more than the area. */
static const char *memcg_begin(void)
{
	char max[24];

	snprintf(max, sizeof(max), "%zu", BANKS * bank_size * 5 / 4);
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/memory.max", max))
		return "no memory controller";
	return NULL;
}

/* Statistics are flushed periodically, and pages are freed late. */
static long memcg_settles(const char *file, const char *key, long most)
{
	long value = -1;

	race_wait_for((value = race_read_number(file, key)) >= 0 &&
		      value <= most, limit / 2);
	return value;
}

/* A lower limit drains the charges that the CPUs keep in stock. */
static void memcg_end(void)
{
	long anon, rest, kills;

	anon = memcg_settles(MEMCG "/memory.stat", "anon", 0);
	if (anon)
		complain("%ld bytes of anonymous memory are left in the memcg\n",
			 anon);
	kills = race_read_number(MEMCG "/memory.events", "oom_kill");
	if (kills)
		complain("%ld processes killed for memory\n", kills);
	note("memcg: peak %ld, %ld times over the limit\n",
	     race_read_number(MEMCG "/memory.peak", NULL),
	     race_read_number(MEMCG "/memory.events", "max"));
	race_write_file(MEMCG "/memory.max", "512K");
	rest = memcg_settles(MEMCG "/memory.current", NULL, MEMCG_REST);
	if (rest < 0 || rest > MEMCG_REST)
		complain("%ld bytes are still charged to the memcg\n", rest);
	must(!rmdir(MEMCG), "removal of the memcg");
}

static bool ksm_has_merged(void)
{
	return race_read_number(RACE_KSM "pages_sharing", NULL) > 0;
}

/* KSM must have merged pages before the race, and goes on during it. */
static void ksm_enter(void)
{
	struct worker w = {};

	for (unsigned int i = 0; i < BANKS; i++)
		must_have(!madvise(banks[i], bank_size, MADV_MERGEABLE),
			  "MADV_MERGEABLE");
	set_up_worker(&w, NULL, 0);
	for (unsigned int i = 0; i < 2 * nr_blocks; i++)
		write_same(&w);
	if (!race_wait_for(ksm_has_merged(), limit / 2))
		complain("KSM merges no page\n");
	tear_down_worker(&w);
}

/* Return: NULL, or why the scenario cannot be run. */
static const char *begin_outside(bool *our_swap)
{
	const char *why = NULL;

	*our_swap = false;
	if (scenario->flags & NEEDS_SWAP)
		why = race_swap_begin(our_swap);
	if (!why && scenario->flags & NEEDS_MEMCG)
		why = memcg_begin();
	if (!why && scenario->flags & NEEDS_KSM) {
		if (access(RACE_KSM "run", W_OK))
			why = "no KSM";
		else
			race_run_ksm("1");
	}
	if (!why && scenario->flags & NEEDS_GUP &&
	    access("/sys/kernel/debug/gup_test", W_OK))
		why = "no gup_test in debugfs";
	return why;
}

static void end_outside(bool our_swap)
{
	if (scenario->flags & NEEDS_MEMCG)
		memcg_end();
	if (scenario->flags & NEEDS_KSM)
		race_run_ksm("2");
	race_swap_end(our_swap);
}

static void enter(void)
{
	struct rlimit files = { 8192, 8192 };

	setrlimit(RLIMIT_NOFILE, &files);
	if (scenario->flags & NEEDS_MEMCG)
		must_have(!race_write_file(MEMCG "/cgroup.procs", "0"),
			  "move to the memcg");
	if (scenario->flags & NEEDS_GUP) {
		gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR);
		must_have(gup_fd >= 0, "open of gup_test");
	}
}

/* In KiB, by a walk of the page tables and by the process's counters. */
struct usage {
	long mapped;
	long counted;
};

static struct usage usage_now(void)
{
	return (struct usage) {
		.mapped = race_read_number("/proc/self/smaps_rollup", "Rss"),
		.counted = race_read_number("/proc/self/status", "VmRSS"),
	};
}

static void check_usage(const struct usage *before)
{
	/* stacks of threads and the like remain */
	long rest = BANKS * bank_size / 4 / 1024;
	struct usage now = usage_now();

	if (before->mapped < 0 || before->counted < 0)
		complain("the process's memory cannot be read\n");
	if (now.mapped > before->mapped + rest ||
	    now.counted > before->counted + rest)
		complain("RSS was %ld KiB (by counter %ld), is %ld (%ld)\n",
			 before->mapped, before->counted, now.mapped,
			 now.counted);
}

/* The process of a scenario. */
static void run_scenario(void)
{
	struct usage before;

	swapped_before = race_read_number("/proc/vmstat", "pswpout");
	enter();
	if (scenario->body == kill_children) {
		kill_children();
		_exit(control->complaints ? KSFT_FAIL : KSFT_PASS);
	}
	before = usage_now();
	open_devices();
	set_up_area();
	if (scenario->flags & NEEDS_KSM)
		ksm_enter();
	if (scenario->body)
		scenario->body();
	else
		run_roles();
	if (lacks_swap())
		complain("no page was swapped out\n");
	munmap(area_start, BANKS * 2 * bank_size);
	munmap(blocks, nr_blocks * sizeof(*blocks));
	check_usage(&before);
	_exit(control->complaints ? KSFT_FAIL : KSFT_PASS);
}

/* Return: false if the process does not end, and makes no progress either. */
static bool wait_while_it_moves(pid_t pid, int *status)
{
	unsigned long before;

	do {
		before = control->progress;
		if (race_wait_child(pid, limit, status))
			return true;
	} while (control->progress != before);
	return false;
}

static int wait_for_scenario(pid_t pid)
{
	int status;

	if (wait_while_it_moves(pid, &status))
		return status;
	complain("no progress for %u s\n", limit);
	race_write_file("/proc/sysrq-trigger", "w");
	kill(pid, SIGKILL);
	if (race_wait_child(pid, limit, &status))
		return status;
	ksft_test_result_fail("%s, and it cannot be killed\n", scenario->name);
	ksft_exit_fail_msg("a process cannot be killed\n");
}

/* This works only when no page of the device is in use any more. */
static void release_device_memory(void)
{
	int status = race_release_device(near_device, limit);

	if (status < 0)
		complain("device pages are still in use after %u s\n", limit);
	else if (status)
		complain("release of the device's memory: status %#x\n",
			 status);
}

static int run_in_process(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		run_scenario();
	}
	status = wait_for_scenario(pid);
	/* its children, if it was killed */
	kill(-pid, SIGKILL);
	return status;
}

static void run_one(const char *kind)
{
	struct timespec start, end;
	const char *why;
	bool our_swap;
	int status;

	memset(control, 0, sizeof(*control));
	clock_gettime(CLOCK_MONOTONIC, &start);
	why = begin_outside(&our_swap);
	if (why) {
		race_swap_end(our_swap);
		ksft_test_result_skip("%s %s: %s\n", kind, scenario->name, why);
		return;
	}
	status = run_in_process();
	release_device_memory();
	end_outside(our_swap);
	clock_gettime(CLOCK_MONOTONIC, &end);
	note("%ld ms\n", (end.tv_sec - start.tv_sec) * 1000 +
	     (end.tv_nsec - start.tv_nsec) / 1000000);
	if (WIFSIGNALED(status))
		complain("ends by signal %d\n", WTERMSIG(status));
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		ksft_test_result_skip("%s %s: %s\n", kind, scenario->name,
				      control->skip);
	else
		ksft_test_result(!status && !control->complaints, "%s %s\n",
				 kind, scenario->name);
}

/* Roles of most scenarios */

static const struct role migrate[] = {
	{ "to device", to_device, 1, 100 },
	{ "to system", to_system, 1, 0 },
	{}
};

static const struct role by_cpu[] = {
	{ "CPU write", cpu_write, 1, 0 },
	{ "CPU read", cpu_read, 1, 0 },
	{}
};

static const struct role by_device[] = {
	{ "device write", far_write, 1, 0 },
	{ "device read", far_read, 1, 0 },
	{}
};

static const struct role in_place[] = {
	{ "device write in place", near_write, 1, 50 },
	{}
};

static const struct scenario scenarios[] = {
	{
		.name = "fork: parent and child keep their own values",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "fork", fork_child, 2, 20 },
		},
	}, {
		.name = "MADV_FREE and reclaim: no device write is lost",
		.flags = DISCARDS | IN_PLACE,
		.sets = { migrate, by_device, in_place },
		.roles = {
			{ "CPU read", cpu_read, 1, 0 },
			{ "MADV_FREE", let_free, 1, 100 },
			{ "pageout", page_out, 1, 100 },
		},
	}, {
		.name = "MADV_DONTNEED: discarded contents do not come back",
		.flags = DISCARDS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "MADV_DONTNEED", discard, 2, 100 },
		},
	}, {
		.name = "munmap and mmap: new memory has no old contents",
		.flags = DISCARDS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "remap", remap, 1, 100 },
		},
	}, {
		.name = "mremap: values move with their memory",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mremap", move, 1, 100 },
		},
	}, {
		.name = "mprotect: read-only stays read-only",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mprotect", protect, 1, 100 },
		},
	}, {
		.name = "KSM: merged pages keep their values",
		.flags = NEEDS_KSM,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "write for KSM", write_same, 1, 200 },
		},
	}, {
		.name = "compaction: no value is lost while pages move",
		.flags = IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "compaction", compact, 1, 10 },
		},
	}, {
		.name = "swap: no value is lost on the way out and in",
		.flags = NEEDS_SWAP | IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "pageout", page_out, 1, 50 },
		},
	}, {
		.name = "short pins: pinned pages get later writes",
		.flags = NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "pin", pin_short, 2, 100 },
			{ "vmsplice", splice_out, 1, 100 },
		},
	}, {
		.name = "long-term pins: pages stay where they are",
		.flags = NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "long-term pin", pin_long, 1, 100 },
			{ "pin", pin_short, 1, 100 },
		},
	}, {
		.name = "memcg limit: all charges come back",
		.flags = NEEDS_MEMCG | NEEDS_SWAP | IN_PLACE,
		.sets = { migrate, by_cpu, by_device, in_place },
		.roles = {
			{ "pageout", page_out, 1, 50 },
		},
	}, {
		.name = "full device: no page is lost when the last one is taken",
		.body = fill_up,
	}, {
		.name = "SIGKILL: device pages of killed processes become free",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mprotect", protect, 1, 0 },
		},
		.body = kill_children,
	}, {
		.name = "signals: interrupted operations complete or roll back",
		.flags = INTERRUPTS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "fork", fork_child, 1, 20 },
			{ "mprotect", protect, 1, 100 },
		},
	}, {
		.name = "faults of many threads: no addition is lost",
		.body = fault_together,
	}, {
		.name = "removal of device memory in use: no value is lost",
		.sets = { by_cpu, by_device },
		.roles = {
			{ "to device", to_device, 2, 0 },
			{ "removal", unplug, 1, 5 },
		},
	}, {
		.name = "exclusive access: CPU and fork take it back",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "exclusive", exclusive, 1, 100 },
			{ "revoke", take_back, 1, 100 },
			{ "fork", fork_child, 1, 20 },
		},
	}, {
		.name = "exclusive access: it ends when mappings change",
		.flags = DISCARDS | UNLOCKED_EXCLUSIVE,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "exclusive", exclusive, 2, 100 },
			{ "remap", remap, 1, 100 },
			{ "mprotect", protect, 1, 100 },
			{ "mremap", move, 1, 50 },
		},
	}, {
		.name = "all at once: no value is lost",
		.flags = DISCARDS | NEEDS_SWAP | NEEDS_KSM | NEEDS_GUP,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "MADV_DONTNEED", discard, 1, 50 },
			{ "remap", remap, 1, 50 },
			{ "mprotect", protect, 1, 50 },
			{ "fork", fork_child, 1, 10 },
			{ "pin", pin_short, 1, 50 },
			{ "write for KSM", write_same, 1, 50 },
			{ "pageout", page_out, 1, 50 },
			{ "compaction", compact, 1, 5 },
		},
	},
};

static void run_kind(unsigned int device, const char *only)
{
	const char *kind;

	near_device = device;
	coherent = device >= 2;
	kind = coherent ? "coherent" : "private";
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
		scenario = &scenarios[i];
		if (!only || strstr(scenario->name, only))
			run_one(kind);
	}
}

static unsigned int count_scenarios(const char *only)
{
	unsigned int nr = 0;

	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
		nr += !only || strstr(scenarios[i].name, only);
	return nr;
}

#define USAGE	"usage: %s [-n iterations] [-s seed] [-t part of a name] " \
		"[-k p|c] [-T seconds without progress]\n"

/*
 * A bank has room for one PMD-mapped huge page of an ordinary size. The huge
 * pages of large base pages would be larger than the memory.
 */
static void choose_sizes(void)
{
	size_t huge = race_huge_size();

	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint32_t);
	block_size = BLOCK_PAGES * page_size;
	bank_size = 2 * MOST_BLOCKS * block_size;
	if (huge >= bank_size && huge <= MOST_BANK_PAGES * page_size)
		bank_size = huge;
	else
		race_note_huge_size(huge);
}

int main(int argc, char **argv)
{
	const char *only = NULL, *kinds = "pc";
	bool private, with_coherent;
	int opt;

	ksft_print_header();
	seed = time(NULL);
	while ((opt = getopt(argc, argv, "n:s:t:k:T:")) != -1) {
		if (opt == 'n')
			iterations = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			only = optarg;
		else if (opt == 'k')
			kinds = optarg;
		else if (opt == 'T')
			limit = strtoul(optarg, NULL, 0);
		else
			ksft_exit_fail_msg(USAGE, argv[0]);
	}
	if (!iterations || !limit || !count_scenarios(only))
		ksft_exit_fail_msg("nothing to do\n");
	choose_sizes();
	private = !access("/dev/hmm_dmirror1", R_OK | W_OK) &&
		  strchr(kinds, 'p');
	with_coherent = !access("/dev/hmm_dmirror3", R_OK | W_OK) &&
			strchr(kinds, 'c');
	if (!private && !with_coherent)
		ksft_exit_skip("no /dev/hmm_dmirror*: load test_hmm\n");
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	ksft_print_msg("seed %llu, %lu iterations, a hang is %u s without progress\n",
		       (unsigned long long)seed, iterations, limit);
	ksft_set_plan(count_scenarios(only) * (private + with_coherent));
	if (private)
		run_kind(0, only);
	if (with_coherent)
		run_kind(2, only);
	ksft_finished();
}
