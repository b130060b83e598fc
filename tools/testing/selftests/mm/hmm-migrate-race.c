// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race migration to a device and back against the rest of mm.
 *
 * Each scenario is a process of its own with an area of memory and threads
 * that migrate parts of it, write and read it by the CPU and through a device,
 * and do to it what the scenario is about. Every word that anybody reads must
 * be one that was written to that place, and none that was replaced before the
 * reader began to look.
 *
 * How a reader knows that: see hmm_race_common.h. The other text that a
 * change may leave is one that all blocks share, for KSM.
 *
 * Devices
 *
 *   The "near" device owns the memory that is migrated to, the "far" one reads
 *   and writes through its mirror. They are two, since the dummy driver does
 *   not lock its page table against migrations of its own: it can lose a write
 *   of its own, and keeps entries for pages that were zapped while it copied.
 *   Where it would read those, ranges to migrate run into a gap without
 *   access, which makes it return before it does. To write to device memory in
 *   place, everybody who might touch the block is kept out.
 *
 * Locks
 *
 *   Of each block a mutex "contents", for those who change what is in it, then
 *   a lock "touch": shared by those who access it, exclusive for those who
 *   take its mapping away for a while. A device takes no "touch" unless the
 *   scenario writes in place, and mm's own threads take nothing; errors that a
 *   device gets must have such a change of the mapping as their cause. The
 *   order is by block, and contents before touch.
 *
 * The end
 *
 *   What a scenario leaves: no memory that it did not have before, and, when
 *   its process is gone, no page on the device, whose memory is taken away by
 *   HMM_DMIRROR_RELEASE, which would wait for such a page for ever. A counter
 *   of the process that is wrong shows on the console when it exits.
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
#include "../kselftest.h"
#include <mm/gup_test.h>

#ifndef FOLL_WRITE
#define FOLL_WRITE	0x01
#endif

#define BLOCK_PAGES	16
#define BANKS		2
#define BANK_SIZE	(2UL << 20)
#define BANK_STRIDE	(2 * BANK_SIZE)
#define MAX_BLOCKS	256
#define MOST_BLOCKS	4
/* What one call is about: a bank of pages of 4 KiB, and one behind it. */
#define MOST_PAGES	513
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
 * struct role - what threads of a scenario do
 * @name: for the report
 * @op: one operation; returns whether it has done something
 * @threads: how many do it
 * @share: how often each does it, in per cent of the iterations; 0: as long as
 *	others still have something to do
 */
struct role {
	const char *name;
	bool (*op)(struct worker *w);
	unsigned int threads;
	unsigned int share;
};

/* What a scenario needs, or does. */
#define DISCARDS	1	/* there can be holes: run into the gap */
#define IN_PLACE	2	/* the near device writes to its own memory */
#define NEEDS_SWAP	4
#define NEEDS_KSM	8
#define NEEDS_GUP	16
#define NEEDS_MEMCG	32
#define INTERRUPTS	64
#define FREE_MAKERS	128	/* no lock is held to make pages exclusive */

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
	char *spare;		/* where it moves a block to */
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
static size_t page_size, page_words, block_size;
static int near_fd = -1, far_fd = -1, gup_fd = -1;
static unsigned int near_device;
static bool coherent;
static pthread_rwlock_t plug =
	PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static uint64_t seed, salt;
static unsigned long iterations = 100;
static unsigned int limit = 120;
static _Atomic unsigned int leaders;
static _Atomic unsigned int roles_without_effect;
static time_t started;
static long swapped_before;

/* Reporting: safe in a child of a process with threads. */

/* What cannot be reported is a complaint by itself. */
#define note(...)							\
	do {								\
		if (!race_note(__VA_ARGS__))				\
			control->complaints++;				\
	} while (0)

/* The first few say enough. */
#define complain(...)							\
	do {								\
		if (control->complaints++ < 10)				\
			note(__VA_ARGS__);				\
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

/* For those who hold "contents": nothing is going on. */
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

/* A block where no huge page can be, and nobody invalidates wide ranges. */
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

static void keep_others_out(unsigned int b)
{
	pthread_rwlock_wrlock(&blocks[b].touch);
}

static void unlock_touch(unsigned int b)
{
	pthread_rwlock_unlock(&blocks[b].touch);
}

/* A device keeps out of blocks only where one is written to in place. */
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
			const struct race_window *win)
{
	int error = errno;

	if (error == EBUSY)
		control->busy++;
	else if (!race_was_barred(win, record(b)))
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
		check_error("device read", b, &win);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("device read", b, &win, w->buffer);
}

static bool far_read(struct worker *w)
{
	return far_read_block(w, pick_block(w));
}

/* Under "contents". What the device did not write, the CPU does. */
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
		check_error("device write", b, &win);
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

/* Return: how many of the pages are in its memory, and there writable. */
static unsigned int near_pages(int fd, char *addr, unsigned int nr,
			       unsigned int *writable)
{
	unsigned char perm[MOST_PAGES];
	unsigned char local = coherent ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
					 HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	unsigned int found = 0;

	*writable = 0;
	if (race_device(fd, HMM_DMIRROR_SNAPSHOT, addr, nr, perm))
		return 0;
	for (unsigned int i = 0; i < nr; i++) {
		if ((perm[i] & 0xf0) != local)
			continue;
		found++;
		*writable += !!(perm[i] & HMM_DMIRROR_PROT_WRITE);
	}
	return found;
}

static bool is_near(int fd, char *addr)
{
	unsigned int writable;

	return near_pages(fd, addr, BLOCK_PAGES, &writable) > 0;
}

/*
 * Others take pages back at once. Return: true if the device has read some in
 * its memory, or if some are still there.
 */
static bool migrate_near(char *addr, size_t pages, void *buffer)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)addr,
		.ptr = (uintptr_t)buffer,
		.npages = pages,
	};
	unsigned int writable;
	int ret;

	do {
		ret = ioctl(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, &cmd);
	} while (ret && errno == EINTR);
	return !ret || cmd.cpages ||
	       near_pages(near_fd, addr, pages, &writable);
}

struct part {
	unsigned int b;
	unsigned int blocks;
	size_t pages;
};

/* Some blocks of one bank; to the gap behind it where that is called for. */
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
 * Everybody is out of the block, and all pages are writable on the device when
 * it begins to write: else the dummy driver would fault, for which it is not
 * made while pages are its own. The first page is left out, since the driver
 * forgets one page too many when memory in front of it is invalidated.
 */
static bool write_near_memory(struct worker *w, unsigned int b)
{
	char *addr = block_address(b) + page_size;
	unsigned int nr = BLOCK_PAGES - 1, writable;
	uint32_t number;
	bool ok;

	if (race_device(near_fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr,
			w->buffer) ||
	    near_pages(near_fd, addr, nr, &writable) != nr || writable != nr)
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
	keep_others_out(b);
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

/* What happens to the memory meanwhile */

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

static bool page_out_block(struct worker *w)
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

/*
 * Blocks on the device are not for swap, and with few iterations it may be that
 * no other was met: as many as it takes.
 */
#define SWAP_TRIES	2000

static bool page_out(struct worker *w)
{
	bool ok = page_out_block(w);

	for (int i = 0; ok && i < SWAP_TRIES && lacks_swap(); i++)
		ok = page_out_block(w);
	return ok;
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
	keep_others_out(b);
	race_bar(record(b));
	race_change_begin(record(b), RACE_LEAVES_ZERO);
	if (race_below(&w->random, 2)) {
		must(!munmap(addr, block_size), "munmap");
		must(map_block(addr, b, MAP_FIXED_NOREPLACE), "mmap");
	} else {
		must(map_block(addr, b, MAP_FIXED), "mmap over it");
	}
	race_change_end(record(b));
	race_unbar(record(b));
	unlock_touch(b);
	unlock_contents(b);
	return true;
}

static void move_block(char *from, char *to)
{
	must(mremap(from, block_size, block_size,
		    MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
}

/* There, to the device and back, and home. */
static bool move(struct worker *w)
{
	unsigned int b = pick_block(w);
	char *addr = block_address(b);
	bool moved;

	lock_contents(b);
	keep_others_out(b);
	race_bar(record(b));
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
	race_unbar(record(b));
	unlock_touch(b);
	unlock_contents(b);
	return moved;
}

/* No number is taken for what the device must not be able to write. */
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
	char *addr = block_address(b);
	bool alone = race_below(&w->random, 2);

	if (alone)
		lock_contents(b);
	keep_others_out(b);
	race_bar(record(b));
	must(!mprotect(addr, block_size, prot), "mprotect");
	if (alone)
		try_forbidden_write(w, b);
	if (alone && prot == PROT_READ)
		check_at_rest("CPU read of read-only memory", b,
			      (uint32_t *)addr);
	must(!mprotect(addr, block_size, PROT_READ | PROT_WRITE),
	     "mprotect back");
	race_unbar(record(b));
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
	number = race_change_begin(record(b), RACE_LEAVES_OTHER | RACE_LEAVES_WORDS);
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

static bool pin_short(struct worker *w)
{
	static const unsigned long kinds[] = {
		GUP_FAST_BENCHMARK, PIN_FAST_BENCHMARK, PIN_LONGTERM_BENCHMARK,
		GUP_BASIC_TEST, PIN_BASIC_TEST,
	};
	struct gup_test gup = {
		.addr = (uintptr_t)block_address(pick_block(w)),
		.size = block_size,
		.nr_pages_per_call = 1 + race_below(&w->random, BLOCK_PAGES),
		.gup_flags = race_below(&w->random, 2) ? FOLL_WRITE : 0,
	};

	/* pins of the zero page are not counted, which gup_test warns of */
	if (scenario->flags & DISCARDS)
		gup.gup_flags = FOLL_WRITE;
	return !ioctl(gup_fd, kinds[race_below(&w->random, 5)], &gup) &&
	       gup.size == block_size;
}

/* Pages in a pipe are those that the process has: a later write shows. */
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

/* Whoever has pinned the pages sees what the CPU and the device write. */
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
		/* taken away again before it could read */
		if (errno != ENOENT)
			check_error("exclusive access", b, &win);
		return false;
	}
	race_window_close(&win, record(b));
	return check_block("exclusive read", b, &win, w->buffer);
}

static bool exclusive(struct worker *w)
{
	unsigned int b = pick_block(w);
	bool ok;

	if (scenario->flags & FREE_MAKERS)
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

/* The device has the pages, the CPU writes, the device has them no more. */
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

/* The child's own codes: wrong for the parent, and the other way round. */
static int child_write(struct worker *w, unsigned int b, int fd)
{
	salt = race_mix(getpid());
	cpu_fill(b);
	if (fd < 0)
		return 0;
	race_change_begin(record(b), RACE_LEAVES_WORDS);
	fill(w->buffer, b, record(b)->begun);
	/* a part of them, so that copies are left to be made of the others */
	for (int tries = 0; race_device(fd, HMM_DMIRROR_WRITE,
					block_address(b), BLOCK_PAGES / 2,
					w->buffer); tries++) {
		if (errno != EBUSY || tries == 100) {
			complain("device write of a child: %s\n",
				 strerror(errno));
			return 1;
		}
	}
	return 0;
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
 * The devices that the child opens stay open in the parent, whose table of
 * files it shares: pages that both have may know the child's device, which the
 * dummy driver would free under them.
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

/* The device's memory is taken away, and everybody goes on. */
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
	char *addr = mmap(NULL, size + align, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	must_have(addr != MAP_FAILED, "address space");
	return (char *)(((uintptr_t)addr + align - 1) & ~(align - 1));
}

static void *memory(size_t size)
{
	void *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must_have(addr != MAP_FAILED, "memory");
	/* its size in memory must not depend on huge pages */
	madvise(addr, size, MADV_NOHUGEPAGE);
	return addr;
}

static void set_up_block(unsigned int b)
{
	int kind = PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP;
	struct block *block = &blocks[b];
	pthread_rwlockattr_t attr;

	/* so that those who need the block alone get it at all */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, kind);
	pthread_rwlock_init(&block->touch, &attr);
	pthread_mutex_init(&block->contents, NULL);
	block->record.leaves[0] = RACE_LEAVES_ZERO;
	cpu_fill(b);
}

static void set_up_area(void)
{
	nr_blocks = BANKS * BANK_SIZE / block_size;
	blocks = memory(nr_blocks * sizeof(*blocks));
	area_start = reserve(BANKS * BANK_STRIDE, BANK_SIZE);
	for (unsigned int i = 0; i < BANKS; i++) {
		banks[i] = area_start + i * BANK_STRIDE;
		must_have(!mprotect(banks[i], BANK_SIZE,
				    PROT_READ | PROT_WRITE), "area");
		madvise(banks[i], BANK_SIZE,
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
	w->buffer = memory(BANK_SIZE + page_size);
	w->spare = reserve(block_size, page_size);
	must_have(!pipe(w->pipe), "pipe");
	must_have(fcntl(w->pipe[1], F_SETPIPE_SZ, block_size) >= 0,
		  "size of a pipe");
}

static void tear_down_worker(struct worker *w)
{
	munmap(w->buffer, BANK_SIZE + page_size);
	munmap(w->spare, block_size);
	close(w->pipe[0]);
	close(w->pipe[1]);
}

/* What everybody finds when nothing moves any more. */
static void check_all(struct worker *w)
{
	for (unsigned int b = 0; b < nr_blocks; b++) {
		check_at_rest("CPU read at the end", b,
			      (uint32_t *)block_address(b));
		for (int tries = 0; !far_read_block(w, b) && tries < 100;
		     tries++)
			race_pause_ms(1);
	}
}

/* Running the roles */

static void on_signal(int signal)
{
}

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

/*
 * Who leads has his quota, and goes on until each role has had an effect: with
 * few iterations it may be that one only ever met what others held. What never
 * has any is left to be reported.
 */
static bool has_work(const struct worker *w, unsigned long quota)
{
	if (!quota)
		return leaders > 0;
	return w->tried < quota ||
	       (roles_without_effect && now() - started < limit / 2);
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

/* Signals go to all in turn, with a handler that does nothing. */
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
	started = now();
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

/* A role that has failed as often as this in a row has no effect at all. */
#define FAIR_TRIES	20

/*
 * The threads of a role follow each other. One that never did what it is there
 * for makes the rest worthless.
 */
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
		complain("not once of %lu times: %s\n", tried, role->name);
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
	unsigned int rounds;
	_Atomic unsigned long additions;	/* to each page */
	_Atomic bool over;
} faulting;

/* One thread in two from the other end. */
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

/* First in step, so that all find all pages on the device; then freely. */
static void *faulter(void *arg)
{
	for (unsigned int i = 0; i < faulting.rounds; i++) {
		pthread_barrier_wait(&faulting.barrier);
		add_to_pages((uintptr_t)arg);
		pthread_barrier_wait(&faulting.barrier);
	}
	pthread_barrier_wait(&faulting.barrier);
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
	unsigned int nr = MOST_BLOCKS * BLOCK_PAGES, writable;

	race_device(near_fd, direction, banks[1], nr, w->buffer);
	control->progress++;
	return near_pages(near_fd, banks[1], nr, &writable);
}

static unsigned long fault_in_step(struct worker *w)
{
	unsigned long on_device = 0;

	for (unsigned int i = 0; i < faulting.rounds; i++) {
		on_device += move_all(HMM_DMIRROR_MIGRATE_TO_DEV, w);
		pthread_barrier_wait(&faulting.barrier);
		pthread_barrier_wait(&faulting.barrier);
		check_sums("in step");
	}
	return on_device;
}

/*
 * Eight threads take the pages back as soon as they can: more rounds than those
 * if none was there long enough to be seen.
 */
static unsigned long fault_freely(struct worker *w)
{
	unsigned long on_device = 0;

	pthread_barrier_wait(&faulting.barrier);
	for (unsigned int i = 0; i < faulting.rounds ||
	     (!on_device && i < 40 * faulting.rounds); i++) {
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
	faulting.rounds = iterations;
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
	note("%u rounds with %lu pages on the device, then %lu; %lu additions to each\n",
	     faulting.rounds, step, freely, faulting.additions);
	if (!step || !freely)
		complain("nothing was migrated\n");
	tear_down_worker(&w);
}

/* The device gets full */

#define CHUNK_SIZE	(256UL << 20)	/* what the dummy driver adds at once */
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

/* Once more, for pages that somebody had a reference to for a moment. */
static size_t top_up_part(char *addr, size_t nr, void *buffer)
{
	unsigned int writable;
	size_t found = near_pages(near_fd, addr, nr, &writable);

	if (found == nr)
		return found;
	fill_part(addr, nr, buffer);
	return near_pages(near_fd, addr, nr, &writable);
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
 * One page in sixteen has contents, the others are holes, which become zeroes
 * on the device. Two words a page are enough to tell it from all others.
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

/* A page that the full device gets back can be had by another. */
static void replace_one(size_t full, void *buffer)
{
	size_t again;

	must(!madvise(filling.area, page_size, MADV_DONTNEED),
	     "MADV_DONTNEED");
	/* a page of the system, and not a hole to be filled on the device */
	memset(filling.area, 0, page_size);
	again = for_parts(1, filling.pages, buffer, top_up_part);
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
 * Private memory is added to in chunks, so there the last page of one is
 * passed; of coherent memory there is one chunk.
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
	/* a mark is not to bring 511 pages along */
	madvise(filling.area, size, MADV_NOHUGEPAGE);
	full = coherent ? chunk : filling.pages;
	mark_pages();
	fill_by_threads();
	found = for_parts(0, filling.pages, buffer, top_up_part);
	note("%zu of %zu pages on the device\n", found, filling.pages);
	if (found != full)
		complain("%zu pages on the device, not %zu\n", found, full);
	if (coherent)
		replace_one(full, buffer);
	/* some as a whole, the others by faults, or where they are */
	for_parts(0, filling.pages / 8, buffer, empty_part);
	check_marks(coherent ? 0 : SIZE_MAX);
	munmap(filling.area, size);
	munmap(buffer, MOST_BLOCKS * block_size);
}

/* A process is killed in the middle of it */

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

/* Setting the system up for a scenario, and what it must leave */

#define MEMCG		"/sys/fs/cgroup/hmm-migrate-race"
#define MEMCG_MAX	"5M"
/* slab that outlives its process */
#define MEMCG_REST	(512L << 10)

static const char *memcg_begin(void)
{
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/memory.max", MEMCG_MAX))
		return "no memory controller";
	return NULL;
}

/* Figures are summed up now and then, and pages freed late: poll for long. */
static long memcg_settles(const char *file, const char *key, long most)
{
	long value = -1;

	for (int i = 0; i < 600; i++) {
		value = race_read_number(file, key);
		if (value >= 0 && value <= most)
			break;
		race_pause_ms(100);
	}
	return value;
}

/* Charges that the CPUs keep in stock are given up at a limit that is lower. */
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

#define KSM		"/sys/kernel/mm/ksm/"

static long ksm_shared(void)
{
	return race_read_number(KSM "pages_sharing", NULL);
}

static void ksm_set(const char *run)
{
	race_write_file(KSM "sleep_millisecs", "1");
	race_write_file(KSM "pages_to_scan", "2000");
	race_write_file(KSM "run", run);
}

/* Some merging must have happened before the race, and goes on in it. */
static void ksm_enter(void)
{
	struct worker w = {};

	for (unsigned int i = 0; i < BANKS; i++)
		must_have(!madvise(banks[i], BANK_SIZE, MADV_MERGEABLE),
			  "MADV_MERGEABLE");
	set_up_worker(&w, NULL, 0);
	for (unsigned int i = 0; i < 2 * nr_blocks; i++)
		write_same(&w);
	for (int i = 0; i < 600 && ksm_shared() <= 0; i++)
		race_pause_ms(50);
	if (ksm_shared() <= 0)
		complain("KSM merges nothing\n");
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
		if (access(KSM "run", W_OK))
			why = "no KSM";
		else
			ksm_set("1");
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
		ksm_set("2");
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

/* In KiB, by looking at the page tables and by the process's counters. */
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

/* Stacks of threads and the like are left; the area is 4 MiB. */
#define USAGE_REST	1024

static void check_usage(const struct usage *before)
{
	struct usage now = usage_now();

	if (before->mapped < 0 || before->counted < 0)
		complain("the process's memory cannot be read\n");
	if (now.mapped > before->mapped + USAGE_REST ||
	    now.counted > before->counted + USAGE_REST)
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
		complain("nothing was swapped out\n");
	munmap(area_start, BANKS * BANK_STRIDE);
	munmap(blocks, nr_blocks * sizeof(*blocks));
	check_usage(&before);
	_exit(control->complaints ? KSFT_FAIL : KSFT_PASS);
}

/* Wait for a child for so long, then for its death. Return: its status. */
static int wait_bounded(pid_t pid, unsigned int seconds, const char *what)
{
	int status;

	for (unsigned int i = 0; i < seconds * 50; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		race_pause_ms(20);
	}
	complain("%s: no end after %u s\n", what, seconds);
	race_write_file("/proc/sysrq-trigger", "w");
	kill(pid, SIGKILL);
	for (int i = 0; i < 500; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		race_pause_ms(20);
	}
	ksft_test_result_fail("%s, and it cannot be killed\n", scenario->name);
	ksft_exit_fail_msg("a process cannot be killed\n");
}

/* Only when no page is in use any more does the driver come back from this. */
static void take_device_memory_away(void)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		int fd = race_open_device(near_device);

		_exit(fd < 0 || race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1,
					    NULL));
	}
	status = wait_bounded(pid, limit, "device pages are in use still");
	if (status)
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
	status = wait_bounded(pid, limit, "scenario");
	/* children of one that was killed */
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
	take_device_memory_away();
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

/* What most scenarios have beside their own. */

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
		.name = "MADV_DONTNEED: what is gone stays gone",
		.flags = DISCARDS,
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "MADV_DONTNEED", discard, 2, 100 },
		},
	}, {
		.name = "munmap and mmap: new memory is new",
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
			{ "write of the same", write_same, 1, 200 },
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
		.name = "short pins: who holds a page sees what is written",
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
		.name = "full device: filled to its last page, nothing is lost",
		.body = fill_up,
	}, {
		.name = "SIGKILL: device pages of the dead are free",
		.sets = { migrate, by_cpu, by_device },
		.roles = {
			{ "mprotect", protect, 1, 0 },
		},
		.body = kill_children,
	}, {
		.name = "signals: interrupted work is done or undone",
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
		.name = "removal of device memory in use: nothing is lost",
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
		.name = "exclusive access: mappings change meanwhile",
		.flags = DISCARDS | FREE_MAKERS,
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
			{ "write of the same", write_same, 1, 50 },
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
		"[-k p|c] [-T seconds a scenario]\n"

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
	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint32_t);
	block_size = BLOCK_PAGES * page_size;
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
	ksft_print_msg("seed %llu, %lu iterations, %u s a scenario at most\n",
		       (unsigned long long)seed, iterations, limit);
	ksft_set_plan(count_scenarios(only) * (private + with_coherent));
	if (private)
		run_kind(0, only);
	if (with_coherent)
		run_kind(2, only);
	ksft_finished();
}
