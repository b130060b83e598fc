// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race a mirrored address space against everything that changes it.
 *
 * Reader threads let the dummy device (lib/test_hmm.c) read parts of an area
 * through its mirror, and look at them by the CPU too. Meanwhile mutator
 * threads write to the area by the CPU and through the device, and unmap, map,
 * move, protect, fork, discard, page out and migrate parts of it. Every word
 * that a reader finds must be one that was written there and that has not been
 * replaced since before the reader began to look; every error that it gets must
 * have a cause.
 *
 * How a reader knows
 *
 *   Whoever changes the contents of a page takes the next number of that page.
 *   Each word of the page becomes a code for the page, its number and the
 *   word's place, with a checksum; or zero, where pages are discarded. What a
 *   change may leave behind is recorded under its number before it begins, and
 *   narrowed down before it counts as done. A reader notes the number that is
 *   done before it reads (lo) and the one that has begun afterwards (hi). Going
 *   back from hi, it may find the outcome of each change, down to the last one
 *   at or below lo that leaves nothing older behind.
 *
 *   Where a page may not be accessible for a while, a counter is odd. An error
 *   is legal if a counter of a page in the range was odd or has changed.
 *
 * Locks
 *
 *   Two mutexes a block of pages: "contents" is held by those who change
 *   contents, "mapping" by those who change what is mapped where, and by the
 *   CPU's own accesses, which must not fault for good. Contents before mapping,
 *   blocks in ascending order. The device holds neither while it reads, and
 *   only "contents" while it writes.
 *
 * The work is bounded by the number of changes; time has no say. Two runs with
 * one seed make the same choices in each thread, in different interleavings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hmm_race_common.h"
#include "../kselftest.h"

#define BLOCK_PAGES	16
#define PAGES		2048
#define BLOCKS		(PAGES / BLOCK_PAGES)
#define MOST_BLOCKS	4
#define HOT		(2 * MOST_PAGES)
#define CHURNED		4
#define CHURNS		16
#define MOST_PAGES	(MOST_BLOCKS * BLOCK_PAGES)
#define RING		256
#define HUGE_SIZE	(2UL << 20)
#define MAX_THREADS	8

/* What a change may leave in a page. */
#define MAY_BE_NEW	1	/* the code of its number */
#define MAY_BE_ZERO	2
#define NOTHING_OLD	4	/* nothing that was there before */

struct page_state {
	atomic_uint begun;
	atomic_uint done;
	atomic_uint unreadable;	/* odd: no access, maybe */
	atomic_uint unwritable;
	atomic_uchar left[RING];
};

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

/* What a thread has: its random numbers, buffers and results. */
struct worker {
	pthread_t thread;
	uint64_t random;
	uint64_t *buffer;
	char *spare;		/* where it moves pages to */
	unsigned int stride;	/* of the words that it checks */
	unsigned long words, reads, cpu_reads, errors, busy, unchecked;
	unsigned long done[CHANGES];
	/* the thread that discards what this one lets the device write */
	pthread_t racer;
	sem_t race, raced;
	struct span race_part;
	bool race_remap, race_over;
};

static struct page_state pages[PAGES];
static struct block blocks[BLOCKS];
static char *area;
static size_t page_size, page_words;
static int mirror_fd, memory_fd;
static uint64_t seed;
static unsigned long iterations = 300;
static unsigned int mutators = 2, readers = 3;
static atomic_uint running;
static atomic_ulong bad_words, bad_errors, bad_children;
static atomic_bool failed_setup;

static unsigned int below(struct worker *w, unsigned int limit)
{
	return race_below(&w->random, limit);
}

static char *page_address(unsigned int page)
{
	return area + page * page_size;
}

/* Page and number in the lower half, a checksum above; never zero. */
static uint64_t code(unsigned int page, uint32_t number, unsigned int word)
{
	uint64_t id = (uint64_t)page << 20 | (number & 0xfffff);
	uint64_t sum = race_mix(seed ^ id << 24 ^ word) >> 32;

	return (sum | 1) << 32 | id;
}

static void fill(uint64_t *words, unsigned int page, uint32_t number)
{
	for (unsigned int i = 0; i < page_words; i++)
		words[i] = code(page, number, i);
}

/* Numbers and locks */

static uint32_t change_begin(unsigned int page, uint8_t left)
{
	struct page_state *p = &pages[page];
	uint32_t number = p->begun + 1;

	p->left[number % RING] = left;
	p->begun = number;
	return number;
}

static void change_end(unsigned int page, uint8_t left)
{
	struct page_state *p = &pages[page];

	p->left[p->begun % RING] = left;
	p->done = p->begun;
}

static void begin_all(struct span part, uint8_t left)
{
	for (unsigned int i = 0; i < part.nr; i++)
		change_begin(part.page + i, left);
}

static void end_all(struct span part, uint8_t left)
{
	for (unsigned int i = 0; i < part.nr; i++)
		change_end(part.page + i, left);
}

/* Called before and after the time in which an access may fail. */
static void bar_reads(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		pages[part.page + i].unreadable++;
}

static void bar_writes(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		pages[part.page + i].unwritable++;
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
static const unsigned int hot_spots[] = { 512 - HOT / 2, 1536 - HOT / 2 };

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

struct window {
	uint32_t lo, hi;
	uint32_t unreadable, unwritable;
};

static void window_open(struct window *win, struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++) {
		win[i].lo = pages[part.page + i].done;
		win[i].unreadable = pages[part.page + i].unreadable;
		win[i].unwritable = pages[part.page + i].unwritable;
	}
}

static void window_close(struct window *win, struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++)
		win[i].hi = pages[part.page + i].begun;
}

enum verdict { LEGAL, ILLEGAL, UNKNOWN };

#define TOP_BITS	0x8080808080808080ULL

/* The top bit of each byte in which two words are equal. */
static uint64_t equal_bytes(uint64_t a, uint64_t b)
{
	uint64_t diff = a ^ b;

	return ~(((diff & ~TOP_BITS) + ~TOP_BITS) | diff) & TOP_BITS;
}

/*
 * A copy may go byte by byte, and find a word half written: each byte has to
 * be from one of the words that may be there. Where only one may, that is it.
 */
static enum verdict judge(unsigned int page, struct window *win,
			  unsigned int word, uint64_t value)
{
	struct page_state *p = &pages[page];
	uint32_t number = win->hi;
	uint64_t equal = 0;

	for (;; number--) {
		uint8_t left = p->left[number % RING];

		if (left & MAY_BE_ZERO)
			equal |= equal_bytes(value, 0);
		if (left & MAY_BE_NEW)
			equal |= equal_bytes(value, code(page, number, word));
		if (equal == TOP_BITS)
			return LEGAL;
		if ((left & NOTHING_OLD) && (int32_t)(number - win->lo) <= 0)
			break;
		if (win->hi - number == RING / 2)
			return UNKNOWN;
	}
	/* was the record of these changes still the one that was read? */
	return p->begun - number < RING ? ILLEGAL : UNKNOWN;
}

static void complain(const char *who, unsigned int page, struct window *win,
		     unsigned int word, uint64_t value)
{
	if (bad_words++ >= 8)
		return;
	ksft_print_msg("%s: page %u word %u: %#llx is not of changes %u to %u (%#llx)\n",
		       who, page, word,
		       (unsigned long long)value, win->lo, win->hi,
		       (unsigned long long)code(page, win->hi, word));
}

/* False if a word is wrong: one complaint a page says enough. */
static bool check_word(struct worker *w, const char *who, unsigned int page,
		       struct window *win, unsigned int word, uint64_t value)
{
	switch (judge(page, win, word, value)) {
	case LEGAL:
		w->words++;
		return true;
	case UNKNOWN:
		w->unchecked++;
		return true;
	default:
		complain(who, page, win, word, value);
		return false;
	}
}

/* While threads race, each @w->stride-th word: looking is not to take long. */
static void check_words(struct worker *w, const char *who, struct span part,
			struct window *win, const uint64_t *words)
{
	for (unsigned int i = 0; i < part.nr; i++, words += page_words) {
		unsigned int k = below(w, w->stride);

		while (k < page_words && check_word(w, who, part.page + i,
						    &win[i], k, words[k]))
			k += w->stride;
	}
}

/* Whether some page of the part could not be accessed for some time. */
static bool was_barred(struct span part, struct window *win, bool write)
{
	for (unsigned int i = 0; i < part.nr; i++) {
		struct page_state *p = &pages[part.page + i];

		if (win[i].unreadable & 1 || win[i].unreadable != p->unreadable)
			return true;
		if (write && (win[i].unwritable & 1 ||
			      win[i].unwritable != p->unwritable))
			return true;
	}
	return false;
}

static void check_error(struct worker *w, const char *who, struct span part,
			struct window *win, bool write)
{
	int error = errno;

	w->errors++;
	/* so many invalidations that the driver gave up */
	if (error == EBUSY) {
		w->busy++;
		return;
	}
	if ((error == EFAULT || (error == EPERM && write)) &&
	    was_barred(part, win, write))
		return;
	if (bad_errors++ < 8)
		ksft_print_msg("%s: pages %u to %u: %s, without a cause\n", who,
			       part.page, part.page + part.nr - 1,
			       strerror(error));
}

/* The device */

static int device(int fd, unsigned long request, char *addr, unsigned int nr,
		  void *buffer, unsigned int *copied)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)addr,
		.ptr = (uintptr_t)buffer,
		.npages = nr,
	};
	int ret;

	do {
		ret = ioctl(fd, request, &cmd);
	} while (ret && errno == EINTR);
	if (copied)
		*copied = cmd.cpages;
	return ret;
}

static void device_read(struct worker *w, struct span part)
{
	struct window win[MOST_PAGES];

	window_open(win, part);
	if (device(mirror_fd, HMM_DMIRROR_READ, page_address(part.page),
		   part.nr, w->buffer, NULL)) {
		check_error(w, "device read", part, win, false);
		return;
	}
	window_close(win, part);
	check_words(w, "device read", part, win, w->buffer);
	w->reads++;
}

static void device_snapshot(struct worker *w, struct span part)
{
	unsigned char *perms = (unsigned char *)w->buffer;
	struct window win[MOST_PAGES];

	window_open(win, part);
	if (device(mirror_fd, HMM_DMIRROR_SNAPSHOT, page_address(part.page),
		   part.nr, perms, NULL)) {
		check_error(w, "snapshot", part, win, false);
		return;
	}
	for (unsigned int i = 0; i < part.nr; i++) {
		struct span one = { part.page + i, 1 };

		if (perms[i] != HMM_DMIRROR_PROT_ERROR ||
		    was_barred(one, &win[i], false))
			continue;
		errno = EFAULT;
		check_error(w, "snapshot", one, &win[i], false);
	}
}

static void cpu_read(struct worker *w, struct span part)
{
	struct window win[MOST_PAGES];

	lock_mapping(part);
	window_open(win, part);
	memcpy(w->buffer, page_address(part.page), part.nr * page_size);
	window_close(win, part);
	unlock_mapping(part);
	check_words(w, "CPU read", part, win, w->buffer);
	w->cpu_reads++;
}

/* Changes */

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	ksft_print_msg("%s: %s\n", what, strerror(errno));
	failed_setup = true;
}

static void write_locked(struct span part)
{
	for (unsigned int i = 0; i < part.nr; i++) {
		unsigned int page = part.page + i;
		uint32_t number = change_begin(page, MAY_BE_NEW);

		fill((uint64_t *)page_address(page), page, number);
		change_end(page, MAY_BE_NEW | NOTHING_OLD);
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

/* Between munmap() and this nobody else may map anything: no thread does. */
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
	size_t size = part.nr * page_size;

	bar_reads(part);
	must(!munmap(addr, size), "munmap");
	must(map_at(addr, size), "mmap");
	advise_size(part);
	bar_reads(part);
}

static void discard(struct span part, bool by_remap)
{
	if (by_remap)
		remap(part);
	else
		must(!madvise(page_address(part.page), part.nr * page_size,
			      MADV_DONTNEED), "MADV_DONTNEED");
}

static void zap(struct span part, bool by_remap)
{
	lock_contents(part);
	lock_mapping(part);
	begin_all(part, MAY_BE_ZERO);
	discard(part, by_remap);
	end_all(part, MAY_BE_ZERO | NOTHING_OLD);
	unlock_mapping(part);
	unlock_contents(part);
}

/* From now on the pages are old or zero, until someone writes to them. */
static void let_free(struct span part)
{
	lock_contents(part);
	lock_mapping(part);
	begin_all(part, MAY_BE_ZERO);
	must(!madvise(page_address(part.page), part.nr * page_size, MADV_FREE),
	     "MADV_FREE");
	end_all(part, MAY_BE_ZERO);
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
		discard(w->race_part, w->race_remap);
		unlock_mapping(w->race_part);
		sem_post(&w->raced);
	}
}

/* Buffers of new codes, and what is recorded for them. */
static void device_write_begin(struct worker *w, struct span part, uint8_t left)
{
	for (unsigned int i = 0; i < part.nr; i++)
		fill(w->buffer + i * page_words, part.page + i,
		     change_begin(part.page + i, left));
}

static void device_write(struct worker *w, struct span part)
{
	struct window win[MOST_PAGES];
	unsigned int copied = 0;
	int ret;

	lock_contents(part);
	window_open(win, part);
	device_write_begin(w, part, MAY_BE_NEW);
	ret = device(mirror_fd, HMM_DMIRROR_WRITE, page_address(part.page),
		     part.nr, w->buffer, &copied);
	if (ret)
		check_error(w, "device write", part, win, true);
	else
		copied = part.nr;
	for (unsigned int i = 0; i < part.nr; i++)
		change_end(part.page + i, i < copied ?
			   MAY_BE_NEW | NOTHING_OLD : MAY_BE_NEW);
	unlock_contents(part);
	w->done[CHANGE_DEVICE_WRITE] += !ret;
}

static void device_write_raced(struct worker *w, struct span part)
{
	struct window win[MOST_PAGES];
	int ret;

	lock_contents(part);
	window_open(win, part);
	device_write_begin(w, part, MAY_BE_NEW | MAY_BE_ZERO);
	w->race_part = part;
	w->race_remap = below(w, 2);
	sem_post(&w->race);
	ret = device(mirror_fd, HMM_DMIRROR_WRITE, page_address(part.page),
		     part.nr, w->buffer, NULL);
	if (ret)
		check_error(w, "raced device write", part, win, true);
	while (sem_wait(&w->raced))
		;
	end_all(part, MAY_BE_NEW | MAY_BE_ZERO | NOTHING_OLD);
	unlock_contents(part);
	w->done[CHANGE_DEVICE_WRITE_RACED] += !ret;
}

static bool move_at_once(char *to, char *from, size_t size)
{
	return mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

/* Page by page if more than one VMA is there. */
static bool move_to(char *to, char *from, size_t size)
{
	if (move_at_once(to, from, size))
		return true;
	for (size_t i = 0; i < size; i += page_size)
		if (!move_at_once(to + i, from + i, page_size))
			return false;
	return true;
}

/* While the pages are elsewhere, the device must find them there. */
static void move(struct worker *w, struct span part)
{
	char *addr = page_address(part.page);
	size_t size = part.nr * page_size;
	struct window win[MOST_PAGES];

	lock_contents(part);
	lock_mapping(part);
	bar_reads(part);
	must(move_to(w->spare, addr, size), "mremap");
	window_open(win, part);
	if (device(mirror_fd, HMM_DMIRROR_READ, w->spare, part.nr, w->buffer,
		   NULL)) {
		w->errors++;
		must(errno == EBUSY, "device read of moved pages");
	} else {
		window_close(win, part);
		check_words(w, "device read of moved pages", part, win,
			    w->buffer);
		w->reads++;
	}
	must(move_to(addr, w->spare, size), "mremap back");
	must(map_at(w->spare, size), "mmap of the spare");
	bar_reads(part);
	unlock_mapping(part);
	unlock_contents(part);
}

static void bar(struct span part, int prot)
{
	if (prot & PROT_READ)
		bar_writes(part);
	else
		bar_reads(part);
}

static void protect(struct worker *w, struct span part, int prot)
{
	char *addr = page_address(part.page);
	size_t size = part.nr * page_size;

	lock_mapping(part);
	bar(part, prot);
	must(!mprotect(addr, size, prot), "mprotect");
	if (below(w, 2))
		sched_yield();
	must(!mprotect(addr, size, PROT_READ | PROT_WRITE), "mprotect back");
	bar(part, prot);
	unlock_mapping(part);
}

#define CHILD_WORD	0xc0ffee00c0ffee00ULL

/* Writes to its own copy, which no one else may see, and its device must. */
static int child(struct span part, uint64_t *buffer)
{
	uint64_t *words = (uint64_t *)page_address(part.page);
	size_t nr = part.nr * page_words, i;
	int fd = open("/dev/hmm_dmirror0", O_RDWR), tries = 100, ret;

	if (fd < 0)
		return 2;
	for (i = 0; i < nr; i++)
		words[i] = CHILD_WORD + i;
	do {
		ret = device(fd, HMM_DMIRROR_READ, (char *)words, part.nr,
			     buffer, NULL);
	} while (ret && errno == EBUSY && --tries);
	if (ret)
		return 3;
	for (i = 0; i < nr; i++)
		if (buffer[i] != CHILD_WORD + i || words[i] != buffer[i])
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
	if (!status)
		return;
	if (bad_children++ < 8)
		ksft_print_msg("child of pages %u to %u: status %#x (%s)\n",
			       part.page, part.page + part.nr - 1, status,
			       WIFEXITED(status) && WEXITSTATUS(status) == 1 ?
			       "wrong contents" : "could not read them");
}

static void advise(struct span part, int advice)
{
	/* an unmapped part is as good a race as any */
	madvise(page_address(part.page), part.nr * page_size, advice);
}

/*
 * To the memory of the other device, from where the mirror's accesses fault
 * the pages back. (For the dummy driver to read device memory of its own, it
 * would have to survive an invalidation without forgetting where that is.)
 * They are written first, since of a hole it may keep a stale entry.
 */
static void migrate(struct worker *w, struct span part)
{
	lock_contents(part);
	lock_mapping(part);
	write_locked(part);
	/* an error if not every page has gone there: one may be paged out */
	if (!device(memory_fd, HMM_DMIRROR_MIGRATE_TO_DEV,
		    page_address(part.page), part.nr, w->buffer, NULL))
		w->done[CHANGE_MIGRATE]++;
	unlock_mapping(part);
	unlock_contents(part);
}

static void migrate_back(struct worker *w, struct span part)
{
	lock_mapping(part);
	device(memory_fd, HMM_DMIRROR_MIGRATE_TO_SYS, page_address(part.page),
	       part.nr, w->buffer, NULL);
	unlock_mapping(part);
}

static void change(struct worker *w, enum change what)
{
	struct span part = random_part(w);

	switch (what) {
	case CHANGE_DEVICE_WRITE:
		device_write(w, part);
		return;
	case CHANGE_DEVICE_WRITE_RACED:
		device_write_raced(w, part);
		return;
	case CHANGE_MIGRATE:
		migrate(w, part);
		return;
	case CHANGE_REMAP:
	case CHANGE_DONTNEED:
		zap(part, what == CHANGE_REMAP);
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
	w->done[what]++;
}

/*
 * Discard a page and write it anew, in the middle of a hot spot. Nothing else
 * is as quick, and so as likely to come between the device's look at the page
 * table and its use of what was found there.
 */
static void churn(struct worker *w)
{
	struct span part = {
		.page = hot_spots[below(w, 2)] + HOT / 2 + below(w, CHURNED),
		.nr = 1,
	};

	zap(part, false);
	cpu_write(part);
	w->done[CHANGE_DONTNEED]++;
	w->done[CHANGE_WRITE]++;
}

/*
 * Each kind once, then at random; and as many writes as all the rest, so that
 * there is something to lose.
 */
static void *mutator(void *arg)
{
	struct worker *w = arg;

	for (unsigned long i = 0; i < iterations; i++) {
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

/* A large part of a hot spot: the longer the look, the more comes between. */
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

/* Swap on compressed memory, if the system has none. */

#define ZRAM		"/dev/zram0"
#define ZRAM_SYSFS	"/sys/block/zram0/"
#define ZRAM_MIB	64

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), ret;

	if (fd < 0)
		return -1;
	ret = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	close(fd);
	return ret;
}

/* The first page of a swap area: version, last page, and a signature. */
static int write_swap_header(const char *path)
{
	uint32_t *header = calloc(1, page_size);
	int fd = open(path, O_WRONLY), ret = -1;

	if (header && fd >= 0) {
		header[256] = 1;
		header[257] = (ZRAM_MIB << 20) / page_size - 1;
		memcpy((char *)header + page_size - 10, "SWAPSPACE2", 10);
		ret = pwrite(fd, header, page_size, 0) == (ssize_t)page_size ?
		      0 : -1;
	}
	if (fd >= 0)
		close(fd);
	free(header);
	return ret;
}

static bool have_swap(void)
{
	FILE *file = fopen("/proc/swaps", "r");
	char line[256];
	int lines = 0;

	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		lines++;
	fclose(file);
	return lines > 1;
}

/* NULL if there is swap, or why there is none; sets *ours if we made it. */
static const char *set_up_swap(bool *ours)
{
	char size[16];

	*ours = false;
	if (have_swap())
		return NULL;
	if (access(ZRAM, W_OK))
		return "there is no swap, and no " ZRAM " to make some";
	snprintf(size, sizeof(size), "%dM", ZRAM_MIB);
	if (write_text(ZRAM_SYSFS "disksize", size))
		return ZRAM " is in use, or takes no size";
	*ours = true;
	if (write_swap_header(ZRAM))
		return "cannot write to " ZRAM;
	if (swapon(ZRAM, 0))
		return "swapon refuses " ZRAM;
	return NULL;
}

static void take_down_swap(void)
{
	swapoff(ZRAM);
	write_text(ZRAM_SYSFS "reset", "1");
}

static long swapped_out(void)
{
	FILE *file = fopen("/proc/vmstat", "r");
	char name[64];
	long value, out = -1;

	if (!file)
		return -1;
	while (fscanf(file, "%63s %ld", name, &value) == 2)
		if (!strcmp(name, "pswpout"))
			out = value;
	fclose(file);
	return out;
}

/* Running it all */

static char *reserve(size_t size)
{
	char *addr = mmap(NULL, size + HUGE_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		return NULL;
	return (char *)(((uintptr_t)addr + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
}

static bool set_up_area(void)
{
	area = reserve(PAGES * page_size);
	if (!area)
		return false;
	advise_size((struct span) { 0, PAGES });
	for (unsigned int b = 0; b < BLOCKS; b++) {
		pthread_mutex_init(&blocks[b].contents, NULL);
		pthread_mutex_init(&blocks[b].mapping, NULL);
	}
	for (unsigned int i = 0; i < PAGES; i++)
		pages[i].left[0] = MAY_BE_ZERO | NOTHING_OLD;
	return true;
}

static bool set_up_worker(struct worker *w, unsigned int index)
{
	w->random = race_mix(seed + index);
	w->stride = 8;
	w->buffer = malloc(MOST_PAGES * page_size);
	w->spare = reserve(MOST_PAGES * page_size);
	sem_init(&w->race, 0, 0);
	sem_init(&w->raced, 0, 0);
	return w->buffer && w->spare;
}

static void run(struct worker *w)
{
	unsigned int i;

	running = mutators;
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
	w->stride = 1;
	for (unsigned int i = 0; i < PAGES; i += MOST_PAGES) {
		struct span part = { i, MOST_PAGES };

		device_read(w, part);
		cpu_read(w, part);
	}
}

static struct worker sum_up(const struct worker *w)
{
	struct worker sum = {};

	for (unsigned int i = 0; i < mutators + readers; i++, w++) {
		sum.words += w->words;
		sum.reads += w->reads;
		sum.cpu_reads += w->cpu_reads;
		sum.errors += w->errors;
		sum.busy += w->busy;
		sum.unchecked += w->unchecked;
		for (unsigned int k = 0; k < CHANGES; k++)
			sum.done[k] += w->done[k];
	}
	return sum;
}

static bool all_changes_happened(const struct worker *sum)
{
	bool all = true;

	for (unsigned int k = 0; k < CHANGES; k++) {
		ksft_print_msg("%6lu %s\n", sum->done[k], change_names[k]);
		all &= sum->done[k] > 0;
	}
	return all;
}

/*
 * A page that nobody gives back keeps the removal of the device's memory
 * waiting for ever, so let a child wait and give it up after a minute.
 */
static bool device_memory_comes_back(void)
{
	pid_t pid;

	munmap(area, PAGES * page_size);
	pid = fork();
	if (!pid)
		_exit(device(memory_fd, HMM_DMIRROR_RELEASE, area, 1, NULL,
			     NULL) ? 1 : 0);
	for (int i = 0; pid > 0 && i < 600; i++) {
		struct timespec pause = { .tv_nsec = 100 * 1000 * 1000 };
		int status;

		if (waitpid(pid, &status, WNOHANG) == pid)
			return !status;
		nanosleep(&pause, NULL);
	}
	return false;
}

static void report(const struct worker *sum, const char *no_swap, long swapped)
{
	ksft_print_msg("%lu device reads, %lu CPU reads, %lu errors, %lu busy\n",
		       sum->reads, sum->cpu_reads, sum->errors, sum->busy);
	ksft_print_msg("%lu words right, %lu not to be judged\n", sum->words,
		       sum->unchecked);
	ksft_test_result(!bad_words, "every word read was written there\n");
	ksft_test_result(!bad_errors, "every error has a cause\n");
	ksft_test_result(!bad_children, "children see their own copies\n");
	ksft_test_result(all_changes_happened(sum) && !failed_setup,
			 "every kind of change took place\n");
	ksft_test_result(sum->reads > sum->errors &&
			 sum->words / 100 > sum->unchecked,
			 "most reads succeed and can be judged\n");
	if (no_swap)
		ksft_test_result_skip("pages were swapped out: %s\n", no_swap);
	else
		ksft_test_result(swapped > 0, "pages were swapped out\n");
	ksft_test_result(device_memory_comes_back(),
			 "all device memory is given back\n");
}

static void parse(int argc, char **argv)
{
	int opt;

	seed = time(NULL);
	while ((opt = getopt(argc, argv, "n:s:m:r:")) != -1) {
		switch (opt) {
		case 'n':
			iterations = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			mutators = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			readers = strtoul(optarg, NULL, 0);
			break;
		default:
			ksft_exit_fail_msg("usage: hmm-race [-n changes] [-s seed] %s\n",
					   "[-m mutators] [-r readers]");
		}
	}
	if (iterations < CHANGES || !mutators || mutators > MAX_THREADS || !readers ||
	    readers > MAX_THREADS)
		ksft_exit_fail_msg("1 to %d threads of each kind, %d changes or more\n",
				   MAX_THREADS, CHANGES);
}

int main(int argc, char **argv)
{
	static struct worker workers[2 * MAX_THREADS];
	const char *no_swap;
	struct worker sum;
	long swapped;
	bool ours;

	ksft_print_header();
	parse(argc, argv);
	ksft_print_msg("seed %llu, %u mutators of 2 x %lu changes, %u readers\n",
		       (unsigned long long)seed, mutators, iterations, readers);
	page_size = sysconf(_SC_PAGESIZE);
	page_words = page_size / sizeof(uint64_t);
	mirror_fd = open("/dev/hmm_dmirror0", O_RDWR);
	memory_fd = open("/dev/hmm_dmirror1", O_RDWR);
	if (mirror_fd < 0 || memory_fd < 0)
		ksft_exit_skip("no /dev/hmm_dmirror0 and 1: load test_hmm\n");
	ksft_set_plan(7);
	if (!set_up_area())
		ksft_exit_fail_msg("no memory\n");
	for (unsigned int i = 0; i < mutators + readers; i++)
		if (!set_up_worker(&workers[i], i))
			ksft_exit_fail_msg("no memory\n");

	no_swap = set_up_swap(&ours);
	swapped = swapped_out();
	run(workers);
	check_at_rest(&workers[0]);
	swapped = swapped_out() - swapped;
	sum = sum_up(workers);
	report(&sum, no_swap, swapped);
	if (ours)
		take_down_swap();
	ksft_finished();
}
