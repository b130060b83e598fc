// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race a mirrored address space against everything that changes it.
 *
 * Reader threads let the dummy device (lib/test_hmm.c) read parts of an area
 * through its mirror, and read them by the CPU. Meanwhile mutator threads write
 * to the area by the CPU and by the device, and unmap, map, move, protect,
 * fork, discard, page out and migrate parts of it. The oracle
 * (hmm_race_oracle.h) judges each word and each error that a reader gets. Each
 * page has a record.
 *
 * Locks
 *
 *   Each block of pages has two mutexes. "contents" is held while the contents
 *   change, "mapping" while the mapping changes. The CPU's own accesses hold
 *   "mapping", too, because they must not hit an unmapped page. The order is
 *   contents before mapping, and blocks in ascending order. A device holds
 *   neither while it reads, and only "contents" while it writes.
 *
 * The end
 *
 *   Each mutator makes a number of changes, and goes on until each kind of
 *   change has happened. Time only ends a run in which one never happens. Two
 *   runs with one seed make the same choices in each thread, in different
 *   interleavings.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>

#include "hmm_race_common.h"
#include "hmm_race_oracle.h"
#include "../kselftest.h"

#define BLOCK_PAGES	16
#define PAGES		2048
#define BLOCKS		(PAGES / BLOCK_PAGES)
#define MOST_BLOCKS	4
#define MOST_PAGES	(MOST_BLOCKS * BLOCK_PAGES)
#define HOT		(2 * MOST_PAGES)
#define CHURNED		4
#define CHURNS		16
#define MAX_THREADS	8

/* Base pages of the largest huge page that has room in the area. */
#define HUGE_PAGES	(PAGES / 4)

struct block {
	pthread_mutex_t contents;
	pthread_mutex_t mapping;
};

/* Part of the area. */
struct span {
	unsigned int page;
	unsigned int nr;
};

enum change {
	CHANGE_WRITE,
	CHANGE_DEVICE_WRITE,
	CHANGE_DEVICE_WRITE_RACED,
	CHANGE_REMAP,
	CHANGE_DONTNEED,
	CHANGE_FREE,
	CHANGE_MOVE,
	CHANGE_READ_ONLY,
	CHANGE_NO_ACCESS,
	CHANGE_FORK,
	CHANGE_COLD,
	CHANGE_PAGEOUT,
	CHANGE_MIGRATE,
	CHANGE_MIGRATE_BACK,
	CHANGES,
};

static const char * const change_names[CHANGES] = {
	[CHANGE_WRITE] = "CPU write",
	[CHANGE_DEVICE_WRITE] = "device write",
	[CHANGE_DEVICE_WRITE_RACED] = "device write raced by a discard",
	[CHANGE_REMAP] = "munmap and mmap",
	[CHANGE_DONTNEED] = "MADV_DONTNEED",
	[CHANGE_FREE] = "MADV_FREE",
	[CHANGE_MOVE] = "mremap there and back",
	[CHANGE_READ_ONLY] = "mprotect read-only",
	[CHANGE_NO_ACCESS] = "mprotect no access",
	[CHANGE_FORK] = "fork",
	[CHANGE_COLD] = "MADV_COLD",
	[CHANGE_PAGEOUT] = "MADV_PAGEOUT",
	[CHANGE_MIGRATE] = "migration to a device",
	[CHANGE_MIGRATE_BACK] = "migration from a device",
};

struct worker {
	pthread_t thread;
	uint64_t random;
	uint32_t *buffer;
	char *spare;		/* move() moves pages there */
	unsigned int step;	/* from one checked word to the next */
	/* another thread, which discards pages during raced device writes */
	pthread_t racer;
	sem_t race, raced;
	struct span race_part;
	bool race_remap, race_over;
};

/* Of all threads. */
static struct counts {
	atomic_ulong done[CHANGES];
	atomic_ulong reads, cpu_reads, words;
	atomic_ulong errors, busy, unjudged;
	atomic_ulong bad_words, bad_errors, bad_children;
	atomic_bool bad_setup, unread;
} counts;

static struct race_record records[PAGES];
static struct block blocks[BLOCKS];
static char *area;
static size_t page_size, page_words;
static int mirror_fd, memory_fd;
static uint64_t seed;
static unsigned long iterations = 300;
static unsigned int mutators = 2, readers = 3;
static unsigned long limit = 600;
static atomic_uint running;
static time_t started;
static const char *no_swap;
static long swapped_before;

/* The first few of a kind say enough. */
#define complain(count, ...)						\
	do {								\
		if ((*(count))++ < 8)					\
			race_finding(__VA_ARGS__);			\
	} while (0)

static unsigned int below(struct worker *w, unsigned int limit)
{
	return race_below(&w->random, limit);
}

static char *page_address(unsigned int page)
{
	return area + page * page_size;
}

static size_t span_size(struct span part)
{
	return part.nr * page_size;
}

/* No change leaves the other text. */
static struct race_page race_page_of(unsigned int page)
{
	return (struct race_page) {
		.id = seed ^ (uint64_t)page << 32,
		.other = race_mix(seed ^ (uint64_t)PAGES << 32),
	};
}

static void fill(uint32_t *words, unsigned int page, uint32_t number)
{
	race_fill(words, page_words, race_key(race_page_of(page).id, number),
		  number);
}

/* Changes and locks */

static void begin_all(struct span part, uint8_t leaves)
{
	for (unsigned int i = 0; i < part.nr; i++)
		race_change_begin(&records[part.page + i], leaves);
}

static void end_all(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		race_change_end(&records[part.page + i]);
}

static void bar(struct span part, enum race_access access)
{
	for (unsigned int i = 0; i < part.nr; i++)
		race_bar(&records[part.page + i], access);
}

static void unbar(struct span part, enum race_access access)
{
	for (unsigned int i = 0; i < part.nr; i++)
		race_unbar(&records[part.page + i], access);
}

static unsigned int first_block(struct span part)
{
	return part.page / BLOCK_PAGES;
}

static unsigned int end_block(struct span part)
{
	return (part.page + part.nr - 1) / BLOCK_PAGES + 1;
}

static void lock_contents(struct span part)
{
	for (unsigned int b = first_block(part); b < end_block(part); b++)
		pthread_mutex_lock(&blocks[b].contents);
}

static void unlock_contents(struct span part)
{
	for (unsigned int b = first_block(part); b < end_block(part); b++)
		pthread_mutex_unlock(&blocks[b].contents);
}

static void lock_mapping(struct span part)
{
	for (unsigned int b = first_block(part); b < end_block(part); b++)
		pthread_mutex_lock(&blocks[b].mapping);
}

static void unlock_mapping(struct span part)
{
	for (unsigned int b = first_block(part); b < end_block(part); b++)
		pthread_mutex_unlock(&blocks[b].mapping);
}

/*
 * Most parts lie in one of two hot spots, where the threads meet: around the
 * border of two huge pages, and in the half with base pages.
 */
static const unsigned int hot_spots[] = {
	HUGE_PAGES - HOT / 2, 3 * HUGE_PAGES - HOT / 2,
};

static struct span random_part(struct worker *w)
{
	struct span part = { .nr = 1 + below(w, MOST_PAGES) };

	/* small ones are as likely as large ones */
	part.nr >>= below(w, 5);
	if (!part.nr)
		part.nr = 1;
	if (below(w, 8))
		part.page = hot_spots[below(w, 2)] +
			    below(w, HOT - part.nr + 1);
	else
		part.page = below(w, PAGES - part.nr + 1);
	return part;
}

/* Checking */

static void windows_open(struct race_window *win, struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		win[i] = race_window_open(&records[part.page + i]);
}

static void windows_close(struct race_window *win, struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		race_window_close(&win[i], &records[part.page + i]);
}

static void check_page(struct worker *w, const char *who, unsigned int nr,
		       const struct race_window *win, const uint32_t *words)
{
	struct race_page page = race_page_of(nr);
	struct race_text text = {
		.words = words,
		.nr = page_words,
		.first = below(w, w->step),
		.step = w->step,
	};
	size_t i;

	switch (race_check_text(&records[nr], win, &page, &text, &i)) {
	case RACE_RIGHT:
		counts.words += (text.nr - text.first - 1) / text.step + 1;
		return;
	case RACE_TOO_LATE:
		counts.unjudged++;
		return;
	default:
		complain(&counts.bad_words,
			 "%s: page %u word %zu: %#x is not of changes %u to %u (%#x)\n",
			 who, nr, i, words[i], win->floor, win->begun,
			 race_word(race_key(page.id, win->begun), win->begun,
				   i));
	}
}

static void check_words(struct worker *w, const char *who, struct span part,
			const struct race_window *win, const uint32_t *words)
{
	for (unsigned int i = 0; i < part.nr; i++)
		check_page(w, who, part.page + i, &win[i],
			   words + i * page_words);
}

/* Was some page of the part inaccessible for some time? */
static bool was_barred(struct span part, const struct race_window *win,
		       enum race_access access)
{
	for (unsigned int i = 0; i < part.nr; i++)
		if (race_was_barred(&win[i], &records[part.page + i], access))
			return true;
	return false;
}

static void check_error(const char *who, struct span part,
			const struct race_window *win, enum race_access access)
{
	int error = errno;

	counts.errors++;
	/* the driver gives up after many invalidations */
	if (error == EBUSY) {
		counts.busy++;
		return;
	}
	if ((error == EFAULT || (error == EPERM && access == RACE_WRITE)) &&
	    was_barred(part, win, access))
		return;
	complain(&counts.bad_errors,
		 "%s: pages %u to %u: %s without a cause\n", who, part.page,
		 part.page + part.nr - 1, strerror(error));
}

/* Reading. Return: whether the device could read. */
static bool device_read(struct worker *w, struct span part)
{
	struct race_window win[MOST_PAGES];

	windows_open(win, part);
	if (race_device(mirror_fd, HMM_DMIRROR_READ, page_address(part.page),
			part.nr, w->buffer)) {
		check_error("device read", part, win, RACE_READ);
		return false;
	}
	windows_close(win, part);
	check_words(w, "device read", part, win, w->buffer);
	counts.reads++;
	return true;
}

static void device_snapshot(struct worker *w, struct span part)
{
	unsigned char *perms = (unsigned char *)w->buffer;
	struct race_window win[MOST_PAGES];

	windows_open(win, part);
	if (race_device(mirror_fd, HMM_DMIRROR_SNAPSHOT,
			page_address(part.page), part.nr, perms)) {
		check_error("snapshot", part, win, RACE_READ);
		return;
	}
	for (unsigned int i = 0; i < part.nr; i++) {
		struct span one = { part.page + i, 1 };

		if (perms[i] != HMM_DMIRROR_PROT_ERROR ||
		    was_barred(one, &win[i], RACE_READ))
			continue;
		errno = EFAULT;
		check_error("snapshot", one, &win[i], RACE_READ);
	}
}

static void cpu_read(struct worker *w, struct span part)
{
	struct race_window win[MOST_PAGES];

	lock_mapping(part);
	windows_open(win, part);
	memcpy(w->buffer, page_address(part.page), span_size(part));
	windows_close(win, part);
	unlock_mapping(part);
	check_words(w, "CPU read", part, win, w->buffer);
	counts.cpu_reads++;
}

/* Changes */

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	race_finding("%s: %s\n", what, strerror(errno));
	counts.bad_setup = true;
}

static void write_locked(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++) {
		unsigned int page = part.page + i;
		uint32_t number = race_change_begin(&records[page],
						    RACE_LEAVES_WORDS);

		fill((uint32_t *)page_address(page), page, number);
		race_change_end(&records[page]);
	}
}

static void cpu_write(struct span part)
{
	lock_contents(part);
	lock_mapping(part);
	write_locked(part);
	unlock_mapping(part);
	unlock_contents(part);
}

/* Between munmap() and this, no thread may map anything anywhere else. */
static bool map_at(char *addr, size_t size)
{
	return mmap(addr, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr;
}

/* Huge pages in one half of the area, base pages in the other. */
static void advise_size(struct span part)
{
	for (unsigned int i = part.page; i < part.page + part.nr; i++)
		madvise(page_address(i), page_size,
			i < PAGES / 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void remap(struct span part)
{
	char *addr = page_address(part.page);

	bar(part, RACE_READ);
	must(!munmap(addr, span_size(part)), "munmap");
	must(map_at(addr, span_size(part)), "mmap");
	advise_size(part);
	unbar(part, RACE_READ);
}

static void discard_dontneed(struct span part)
{
	must(!madvise(page_address(part.page), span_size(part), MADV_DONTNEED),
	     "MADV_DONTNEED");
}

static void zap(struct span part, void (*discard)(struct span part))
{
	lock_contents(part);
	lock_mapping(part);
	begin_all(part, RACE_LEAVES_ZERO);
	discard(part);
	end_all(part);
	unlock_mapping(part);
	unlock_contents(part);
}

static bool some_window_is_wide(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		if (race_window_is_wide(&records[part.page + i]))
			return true;
	return false;
}

/* After MADV_FREE the pages are old or zero until a thread writes to them. */
static void let_free(struct span part)
{
	lock_contents(part);
	lock_mapping(part);
	if (some_window_is_wide(part))
		write_locked(part);
	begin_all(part, RACE_LEAVES_ZERO);
	must(!madvise(page_address(part.page), span_size(part), MADV_FREE),
	     "MADV_FREE");
	unlock_mapping(part);
	unlock_contents(part);
}

static void *racer(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		while (sem_wait(&w->race))
			;
		if (w->race_over)
			return NULL;
		lock_mapping(w->race_part);
		if (w->race_remap)
			remap(w->race_part);
		else
			discard_dontneed(w->race_part);
		unlock_mapping(w->race_part);
		sem_post(&w->raced);
	}
}

/* Begin the changes, and fill the buffer with their words. */
static void device_write_begin(struct worker *w, struct span part,
			       uint8_t leaves)
{
	for (unsigned int i = 0; i < part.nr; i++)
		fill(w->buffer + i * page_words, part.page + i,
		     race_change_begin(&records[part.page + i], leaves));
}

static void device_write(struct worker *w, struct span part)
{
	struct race_window win[MOST_PAGES];
	struct span written = { .page = part.page };
	size_t copied = 0;

	lock_contents(part);
	windows_open(win, part);
	device_write_begin(w, part, RACE_LEAVES_WORDS);
	if (race_device_counted(mirror_fd, HMM_DMIRROR_WRITE,
				page_address(part.page), part.nr, w->buffer,
				&copied)) {
		check_error("device write", part, win, RACE_WRITE);
		written.nr = copied;
	} else {
		written.nr = part.nr;
		counts.done[CHANGE_DEVICE_WRITE]++;
	}
	end_all(written);
	unlock_contents(part);
}

static void device_write_raced(struct worker *w, struct span part)
{
	struct race_window win[MOST_PAGES];

	lock_contents(part);
	windows_open(win, part);
	device_write_begin(w, part, RACE_LEAVES_WORDS | RACE_LEAVES_ZERO);
	w->race_part = part;
	w->race_remap = below(w, 2);
	sem_post(&w->race);
	if (race_device(mirror_fd, HMM_DMIRROR_WRITE, page_address(part.page),
			part.nr, w->buffer))
		check_error("raced device write", part, win, RACE_WRITE);
	else
		counts.done[CHANGE_DEVICE_WRITE_RACED]++;
	while (sem_wait(&w->raced))
		;
	end_all(part);
	unlock_contents(part);
}

static bool move_at_once(char *to, char *from, size_t size)
{
	return mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		      to) == to;
}

/* Page by page if there is more than one VMA. */
static bool move_to(char *to, char *from, size_t size)
{
	if (move_at_once(to, from, size))
		return true;
	for (size_t i = 0; i < size; i += page_size)
		if (!move_at_once(to + i, from + i, page_size))
			return false;
	return true;
}

static void device_read_moved(struct worker *w, struct span part)
{
	struct race_window win[MOST_PAGES];

	windows_open(win, part);
	if (race_device(mirror_fd, HMM_DMIRROR_READ, w->spare, part.nr,
			w->buffer)) {
		counts.errors++;
		must(errno == EBUSY, "device read of moved pages");
		return;
	}
	windows_close(win, part);
	check_words(w, "device read of moved pages", part, win, w->buffer);
	counts.reads++;
}

/* While the pages are elsewhere, the device must find them there. */
static void move(struct worker *w, struct span part)
{
	char *addr = page_address(part.page);
	size_t size = span_size(part);

	lock_contents(part);
	lock_mapping(part);
	bar(part, RACE_READ);
	must(move_to(w->spare, addr, size), "mremap");
	device_read_moved(w, part);
	must(move_to(addr, w->spare, size), "mremap back");
	must(map_at(w->spare, size), "mmap of the spare");
	unbar(part, RACE_READ);
	unlock_mapping(part);
	unlock_contents(part);
}

static void protect(struct worker *w, struct span part, int prot)
{
	enum race_access barred = prot & PROT_READ ? RACE_WRITE : RACE_READ;
	char *addr = page_address(part.page);

	lock_mapping(part);
	bar(part, barred);
	must(!mprotect(addr, span_size(part), prot), "mprotect");
	if (below(w, 2))
		sched_yield();
	must(!mprotect(addr, span_size(part), PROT_READ | PROT_WRITE),
	     "mprotect back");
	unbar(part, barred);
	unlock_mapping(part);
}

/* Return: false if the driver gave up, so that it can be tried again. */
static bool child_device_read(int fd, struct span part, uint32_t *buffer,
			      int *ret)
{
	*ret = race_device(fd, HMM_DMIRROR_READ, page_address(part.page),
			   part.nr, buffer);
	return !*ret || errno != EBUSY;
}

/*
 * The child writes to its copy. Its device must read the new words, and no
 * other process may see them.
 */
static int child(struct span part, uint32_t *buffer)
{
	uint32_t *words = (uint32_t *)page_address(part.page);
	size_t nr = part.nr * page_words, i;
	uint64_t key = race_mix(getpid());
	int fd = race_open_device(0), ret;

	if (fd < 0)
		return 2;
	race_fill(words, nr, key, 0);
	memset(buffer, 0, span_size(part));
	if (!race_wait_for(child_device_read(fd, part, buffer, &ret), limit) ||
	    ret)
		return 3;
	for (i = 0; i < nr; i++)
		if (buffer[i] != race_word(key, 0, i) || words[i] != buffer[i])
			return 1;
	return 0;
}

static void fork_child(struct worker *w, struct span part)
{
	int status = 0;
	pid_t pid;

	lock_mapping(part);
	pid = fork();
	if (!pid)
		_exit(child(part, w->buffer));
	unlock_mapping(part);
	must(pid > 0, "fork");
	if (pid <= 0)
		return;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status)
		complain(&counts.bad_children,
			 "child of pages %u to %u: status %#x (%s)\n",
			 part.page, part.page + part.nr - 1, status,
			 WIFEXITED(status) && WEXITSTATUS(status) == 1 ?
			 "wrong contents" : "could not read them");
}

/* Another thread may unmap the part at the same time, which is a race, too. */
static void advise(struct span part, int advice)
{
	madvise(page_address(part.page), span_size(part), advice);
}

/*
 * To the memory of the other device: the mirror's accesses fault the pages
 * back. They are written first, since the driver may keep a stale entry for a
 * hole. The call fails if some page stays, for example one that is paged out.
 */
static void migrate(struct worker *w, struct span part)
{
	lock_contents(part);
	lock_mapping(part);
	write_locked(part);
	if (!race_device(memory_fd, HMM_DMIRROR_MIGRATE_TO_DEV,
			 page_address(part.page), part.nr, w->buffer))
		counts.done[CHANGE_MIGRATE]++;
	unlock_mapping(part);
	unlock_contents(part);
}

static void migrate_back(struct worker *w, struct span part)
{
	lock_mapping(part);
	race_device(memory_fd, HMM_DMIRROR_MIGRATE_TO_SYS,
		    page_address(part.page), part.nr, w->buffer);
	unlock_mapping(part);
}

/* Changes that may fail count themselves. */
static bool change_counted(struct worker *w, enum change what,
			   struct span part)
{
	switch (what) {
	case CHANGE_DEVICE_WRITE:
		device_write(w, part);
		return true;
	case CHANGE_DEVICE_WRITE_RACED:
		device_write_raced(w, part);
		return true;
	case CHANGE_MIGRATE:
		migrate(w, part);
		return true;
	default:
		return false;
	}
}

static void change(struct worker *w, enum change what)
{
	struct span part = random_part(w);

	if (change_counted(w, what, part))
		return;
	switch (what) {
	case CHANGE_REMAP:
		zap(part, remap);
		break;
	case CHANGE_DONTNEED:
		zap(part, discard_dontneed);
		break;
	case CHANGE_FREE:
		let_free(part);
		break;
	case CHANGE_MOVE:
		move(w, part);
		break;
	case CHANGE_READ_ONLY:
		protect(w, part, PROT_READ);
		break;
	case CHANGE_NO_ACCESS:
		protect(w, part, PROT_NONE);
		break;
	case CHANGE_FORK:
		fork_child(w, part);
		break;
	case CHANGE_COLD:
		advise(part, MADV_COLD);
		break;
	case CHANGE_PAGEOUT:
		advise(part, MADV_PAGEOUT);
		break;
	case CHANGE_MIGRATE_BACK:
		migrate_back(w, part);
		break;
	default:
		cpu_write(part);
		what = CHANGE_WRITE;
	}
	counts.done[what]++;
}

/*
 * Discard a page and write it anew, in the middle of a hot spot. Nothing else
 * is as quick, and so as likely to come between the device's walk of the page
 * table and its use of the result.
 */
static void churn(struct worker *w)
{
	struct span part = {
		.page = hot_spots[below(w, 2)] + HOT / 2 + below(w, CHURNED),
		.nr = 1,
	};

	zap(part, discard_dontneed);
	cpu_write(part);
	counts.done[CHANGE_DONTNEED]++;
	counts.done[CHANGE_WRITE]++;
}

/* Conditions for the end of the race */

static bool all_changes_happened(void)
{
	for (unsigned int k = 0; k < CHANGES; k++)
		if (!counts.done[k])
			return false;
	return true;
}

static bool pages_were_swapped(void)
{
	return race_read_number("/proc/vmstat", "pswpout") > swapped_before;
}

static bool reads_were_judged(void)
{
	return counts.reads && counts.cpu_reads && counts.words;
}

static bool lacks_something(void)
{
	return !all_changes_happened() || !reads_were_judged() ||
	       (!no_swap && !pages_were_swapped());
}

static bool has_work(unsigned long made)
{
	if (made < iterations)
		return true;
	return lacks_something() && race_now() - started < (time_t)limit;
}

/* Each kind once, then at random. Every second change is a write. */
static void *mutator(void *arg)
{
	struct worker *w = arg;

	for (unsigned long i = 0; has_work(i); i++) {
		change(w, i < CHANGES ? i : below(w, CHANGES));
		change(w, below(w, 3) ? CHANGE_WRITE : CHANGE_DEVICE_WRITE);
		for (unsigned int k = 0; k < CHURNS; k++)
			churn(w);
	}
	w->race_over = true;
	sem_post(&w->race);
	pthread_join(w->racer, NULL);
	running--;
	return NULL;
}

/*
 * A large part of a hot spot. The longer the device walks, the more changes
 * happen during the walk.
 */
static struct span churned_part(struct worker *w)
{
	struct span part = {
		.page = hot_spots[below(w, 2)] + HOT / 2 - below(w, CHURNED),
		.nr = MOST_PAGES / 2 + below(w, MOST_PAGES / 2),
	};

	return part;
}

static void *reader(void *arg)
{
	struct worker *w = arg;

	while (running) {
		switch (below(w, 8)) {
		case 0:
			device_snapshot(w, random_part(w));
			break;
		case 1:
		case 2:
			cpu_read(w, random_part(w));
			break;
		case 3:
		case 4:
			device_read(w, random_part(w));
			break;
		default:
			device_read(w, churned_part(w));
		}
	}
	return NULL;
}

/* Running it all */

static bool set_up_area(void)
{
	size_t huge = HUGE_PAGES * page_size;

	area = race_reserve(PAGES * page_size, huge, PROT_READ | PROT_WRITE);
	if (!area)
		return false;
	if (race_huge_size() > huge)
		race_note_huge_size(race_huge_size());
	advise_size((struct span) { 0, PAGES });
	for (unsigned int b = 0; b < BLOCKS; b++) {
		pthread_mutex_init(&blocks[b].contents, NULL);
		pthread_mutex_init(&blocks[b].mapping, NULL);
	}
	for (unsigned int i = 0; i < PAGES; i++)
		records[i].leaves[0] = RACE_LEAVES_ZERO;
	return true;
}

/* While threads race, a sample of the words: checks must not take long. */
static bool set_up_worker(struct worker *w, unsigned int index)
{
	w->random = race_mix(seed + index);
	w->step = 16;
	w->buffer = malloc(MOST_PAGES * page_size);
	w->spare = race_reserve(MOST_PAGES * page_size, page_size,
				PROT_READ | PROT_WRITE);
	sem_init(&w->race, 0, 0);
	sem_init(&w->raced, 0, 0);
	return w->buffer && w->spare;
}

static void run(struct worker *w)
{
	unsigned int i;

	running = mutators;
	started = race_now();
	for (i = 0; i < mutators; i++) {
		pthread_create(&w[i].racer, NULL, racer, &w[i]);
		pthread_create(&w[i].thread, NULL, mutator, &w[i]);
	}
	for (; i < mutators + readers; i++)
		pthread_create(&w[i].thread, NULL, reader, &w[i]);
	for (i = 0; i < mutators + readers; i++)
		pthread_join(w[i].thread, NULL);
}

/* Each word of each page once more, when nothing moves. */
static void check_at_rest(struct worker *w)
{
	w->step = 1;
	for (unsigned int i = 0; i < PAGES; i += MOST_PAGES) {
		struct span part = { i, MOST_PAGES };

		if (!race_wait_for(device_read(w, part), limit))
			counts.unread = true;
		cpu_read(w, part);
	}
}

static bool device_memory_is_free(void)
{
	munmap(area, PAGES * page_size);
	return !race_release_device(1, limit);
}

static void report(void)
{
	for (unsigned int k = 0; k < CHANGES; k++)
		race_note("%6lu %s\n", counts.done[k], change_names[k]);
	race_note("%lu device reads, %lu CPU reads, %lu errors, %lu busy\n",
		  counts.reads, counts.cpu_reads, counts.errors, counts.busy);
	race_note("%lu words right, %lu pages not judged\n", counts.words,
		  counts.unjudged);
	ksft_test_result(!counts.bad_words,
			 "every word that is read was written there\n");
	ksft_test_result(!counts.bad_errors, "every error has a cause\n");
	ksft_test_result(!counts.bad_children, "children see their own copies\n");
	ksft_test_result(all_changes_happened() && !counts.bad_setup,
			 "every kind of change took place\n");
	ksft_test_result(reads_were_judged() && !counts.unread,
			 "devices and CPUs can read every page at rest\n");
	if (no_swap)
		ksft_test_result_skip("pages were swapped out: %s\n", no_swap);
	else
		ksft_test_result(pages_were_swapped(),
				 "pages were swapped out\n");
	ksft_test_result(device_memory_is_free(),
			 "all device memory is free at the end\n");
}

#define USAGE	"usage: hmm-race [-n changes] [-s seed] [-m mutators] " \
		"[-r readers] [-T seconds until a hang]\n"

static void parse(int argc, char **argv)
{
	int opt;

	seed = time(NULL);
	while ((opt = getopt(argc, argv, "n:s:m:r:T:")) != -1) {
		if (opt == 'n')
			iterations = strtoul(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'm')
			mutators = strtoul(optarg, NULL, 0);
		else if (opt == 'r')
			readers = strtoul(optarg, NULL, 0);
		else if (opt == 'T')
			limit = strtoul(optarg, NULL, 0);
		else
			ksft_exit_fail_msg(USAGE);
	}
	if (iterations < CHANGES || !mutators || mutators > MAX_THREADS ||
	    !readers || readers > MAX_THREADS || !limit)
		ksft_exit_fail_msg("1 to %d threads of each kind, %d changes or more\n",
				   MAX_THREADS, CHANGES);
}

int main(int argc, char **argv)
{
	static struct worker workers[2 * MAX_THREADS];
	bool our_swap;

	ksft_print_header();
	parse(argc, argv);
	race_note("seed %llu, %u mutators of 2 x %lu changes, %u readers\n",
		  (unsigned long long)seed, mutators, iterations, readers);
	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint32_t);
	mirror_fd = race_open_device(0);
	memory_fd = race_open_device(1);
	if (mirror_fd < 0 || memory_fd < 0)
		ksft_exit_skip("no /dev/hmm_dmirror0 and 1: load test_hmm\n");
	ksft_set_plan(7);
	if (!set_up_area())
		ksft_exit_fail_msg("no memory\n");
	for (unsigned int i = 0; i < mutators + readers; i++)
		if (!set_up_worker(&workers[i], i))
			ksft_exit_fail_msg("no memory\n");

	no_swap = race_swap_begin(&our_swap);
	swapped_before = race_read_number("/proc/vmstat", "pswpout");
	run(workers);
	check_at_rest(&workers[0]);
	report();
	race_swap_end(our_swap);
	ksft_finished();
}
