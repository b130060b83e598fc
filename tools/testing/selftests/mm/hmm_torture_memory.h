/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory that is tortured: see hmm-torture.c for who is there, what is shared
 * and which locks there are. Regions and blocks, looks at them and what makes
 * an error legal, locks, injected faults.
 *
 * A part of hmm-torture.c, which alone includes it.
 */
#ifndef HMM_TORTURE_MEMORY_H
#define HMM_TORTURE_MEMORY_H

#include <limits.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "hmm_race_common.h"
#include "../kselftest.h"
#include <mm/gup_test.h>

#ifndef FOLL_WRITE
#define FOLL_WRITE	0x01
#endif

/* In the buffer before it is read to; as a word it would be of no change. */
#define STAMP		0x5a5a5a5aU

#define PAGE_SIZE	4096UL
#define PAGE_WORDS	(PAGE_SIZE / sizeof(uint32_t))
#define BLOCK_PAGES	8
#define BLOCK_SIZE	(BLOCK_PAGES * PAGE_SIZE)
#define BLOCK_WORDS	(BLOCK_PAGES * PAGE_WORDS)
#define REGION_SIZE	(2UL << 20)
#define REGION_STRIDE	(2 * REGION_SIZE)
#define NR_BLOCKS	(REGION_SIZE / BLOCK_SIZE)
#define SPAN_BLOCKS	8
#define TAIL_BLOCKS	4

#define MAX_SLOTS	16
#define MAX_THREADS	8
#define MAX_OPS		40
#define DEVICES		4

/* The own regions come first. */
enum {
	OWN_HUGE,
	OWN_SMALL,
	OWN_FILE,
	SHARED_ANON,
	SHARED_SHMEM,
	SHARED_FILE,
	NR_REGIONS,
	NR_OWN = SHARED_ANON,
};

struct block {
	pthread_mutex_t contents;
	struct race_record record;
};

/* A block's mapping in a process. */
struct mapping {
	_Atomic uint32_t bars;
	_Atomic uint32_t unbars;
	_Atomic bool busy;
};

struct slot {
	_Atomic pid_t pid;
	_Atomic bool ready;
	_Atomic uint32_t incarnation;
	_Atomic unsigned long progress;
	struct mapping mappings[NR_REGIONS][NR_BLOCKS];
	struct block own[NR_OWN][NR_BLOCKS];
};

/* What an operation needs of the system, to have an effect. */
enum {
	NOTHING,
	LUCK,
	DIRECT_IO,
	GUP_TEST,
	USERFAULTFD,
	NR_NEEDS,
};

/* What can be wrong, each a result of the test. */
enum {
	WORDS,
	ERRORS,
	PROCESSES,
	EFFECT,
	DEVICE_PAGES,
	CHARGES,
	COUNTERS,
	NR_RESULTS,
};

static const char *const results[NR_RESULTS] = {
	[WORDS] = "every word is one that may have been written there",
	[ERRORS] = "no error without a cause",
	[PROCESSES] = "all processes get on, and end",
	[EFFECT] = "every operation had an effect",
	[DEVICE_PAGES] = "all device pages are free at the end",
	[CHARGES] = "nothing is charged to the cgroup at the end",
	[COUNTERS] = "counters and free memory are as before",
};

/* Shared by all processes; nothing is done to this memory. */
static struct control {
	_Atomic unsigned int complaints;
	_Atomic unsigned int wrong[NR_RESULTS];
	_Atomic bool over;
	_Atomic uint32_t injections, injections_over;
	_Atomic unsigned long ops, words, unjudged, excused;
	_Atomic unsigned long tried[MAX_OPS], done[MAX_OPS];
	_Atomic unsigned long meddled[MAX_OPS], meant[MAX_OPS];
	_Atomic bool has[NR_NEEDS];
	_Atomic unsigned long filled, kills, stops;
	pthread_mutex_t gup_lock;
	_Atomic pid_t gup_holder;
	struct slot slots[MAX_SLOTS];
	struct block shared[NR_REGIONS][NR_BLOCKS];
} *control;

static struct options {
	uint64_t seed;
	unsigned long seconds;
	unsigned long patience;
	unsigned int slots;
	unsigned int threads;
	bool all_needed;
	const char *only;
	const char *without;
	const char *directory;
} options = {
	.seconds = 60,
	.patience = 120,
	.slots = 4,
	.threads = 5,
	.directory = "/tmp",
};

static bool own_driver;		/* the dummy device is not the base's */
static bool have_device[DEVICES];
static bool can_inject;

/**
 * struct region - memory, as a process sees it
 * @nr: which one
 * @slot: of whose process
 * @addr: where it is mapped
 * @fd: what is mapped, -1 for anonymous memory
 * @blocks: what is known of its contents
 * @mappings: and of its mappings
 * @id: the same only for those who share it
 */
struct region {
	unsigned int nr;
	struct slot *slot;
	char *addr;
	int fd;
	struct block *blocks;
	struct mapping *mappings;
	uint64_t id;
};

/* Some blocks of a region. */
struct span {
	struct region *region;
	unsigned int first;
	unsigned int nr;
};

/* A look at a block begins with this. */
struct view {
	struct race_window win;
	uint32_t unbars;
	uint32_t injections_over;
	uint32_t incarnation;
};

struct worker {
	pthread_t thread;
	unsigned int index;
	uint64_t random;
	uint32_t *buffer;
	char *spare;			/* where it moves a block to */
	int pipe[2];
	int scratch;			/* a file without page cache */
	int fail_nth;
	bool injected;
	volatile sig_atomic_t guarded;
	sigjmp_buf jump;
};

static const char *const region_names[NR_REGIONS] = {
	"own, huge pages", "own", "own of a file",
	"shared", "shared, shmem", "shared, file",
};

/* Of a worker's process. */
static struct slot *slot;
static struct region regions[NR_REGIONS];
static int devices[DEVICES] = { -1, -1, -1, -1 };
static int uffd = -1, pagemap = -1, gup_fd = -1;
static _Atomic unsigned int devices_opened;
static __thread struct worker *self;

/* Reporting: safe in a child of a process with threads. */

/* What cannot be reported is a complaint by itself. */
#define note(...)							\
	do {								\
		if (!race_note(__VA_ARGS__))				\
			control->complaints++;				\
	} while (0)

/* The first few say enough. */
#define complain(what, ...)						\
	do {								\
		control->wrong[what]++;					\
		if (control->complaints++ < 12)				\
			note(__VA_ARGS__);				\
	} while (0)

static void must_have(bool ok, const char *what)
{
	if (ok)
		return;
	complain(PROCESSES, "%s: %s\n", what, strerror(errno));
	_exit(KSFT_FAIL);
}

static uint32_t below(struct worker *w, uint32_t limit)
{
	return race_below(&w->random, limit);
}

static bool one_in(struct worker *w, uint32_t nr)
{
	return !below(w, nr);
}

/* Regions, blocks, and looks at them */

static bool is_own(const struct region *region)
{
	return region->nr < NR_OWN;
}

/* Of its owner, in an incarnation; or of nobody. */
static uint64_t owned_id(unsigned int nr, unsigned int owner,
			 uint32_t incarnation)
{
	uint64_t id = race_mix(options.seed + nr + 1);

	if (nr < NR_OWN)
		id ^= race_mix((uint64_t)owner << 32 | incarnation);
	return id;
}

static uint64_t region_id(unsigned int nr, const struct slot *owner)
{
	return owned_id(nr, owner - control->slots, owner->incarnation);
}

/* A child has words of its own. */
static uint64_t child_salt(pid_t pid)
{
	return race_mix(pid);
}

static char *span_address(const struct span *s)
{
	return s->region->addr + s->first * BLOCK_SIZE;
}

static size_t span_size(const struct span *s)
{
	return s->nr * BLOCK_SIZE;
}

static struct span span_block(const struct span *s, unsigned int i)
{
	return (struct span) { s->region, s->first + i, 1 };
}

static struct race_record *record(const struct span *s)
{
	return &s->region->blocks[s->first].record;
}

static struct mapping *mapping(const struct span *s)
{
	return &s->region->mappings[s->first];
}

/* The other text: that of a private file, or one for KSM to find. */
static struct race_page page_of(const struct span *s, unsigned int i)
{
	uint64_t page = s->first * BLOCK_PAGES + i;
	uint64_t other = s->region->nr == OWN_FILE ? ~page : ~0ULL << 32;

	return (struct race_page) {
		.id = s->region->id ^ page << 32,
		.other = race_mix(options.seed ^ other),
	};
}

static void fill_block(uint32_t *words, const struct span *s, uint32_t number)
{
	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		race_fill(words + i * PAGE_WORDS, PAGE_WORDS,
			  race_key(page_of(s, i).id, number), number);
}

static void fill_other(uint32_t *words, const struct span *s)
{
	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		race_fill(words + i * PAGE_WORDS, PAGE_WORDS,
			  page_of(s, i).other, 0);
}

static struct view view_open(const struct span *s)
{
	return (struct view) {
		.win = race_window_open(record(s)),
		.unbars = mapping(s)->unbars,
		.injections_over = control->injections_over,
		.incarnation = s->region->slot->incarnation,
	};
}

static void view_close(struct view *view, const struct span *s)
{
	race_window_close(&view->win, record(s));
}

/* Is there a cause for an error? */
static bool is_excused(const struct view *view, const struct span *s)
{
	return race_was_barred(&view->win, record(s)) ||
	       mapping(s)->bars != view->unbars ||
	       control->injections != view->injections_over ||
	       s->region->slot->incarnation != view->incarnation ||
	       (self && self->injected);
}

static bool is_passing(int error)
{
	return error == EBUSY || error == EINTR || error == ENOMEM ||
	       error == EAGAIN;
}

/* For errno, after what was tried has failed. */
static void check_error(const char *who, const struct view *view,
			const struct span *s)
{
	int error = errno;

	control->excused++;
	if (is_passing(error) || is_excused(view, s))
		return;
	complain(ERRORS, "%s, %s, block %u: %s without a cause\n", who,
		 region_names[s->region->nr], s->first, strerror(error));
}

/* What a wrong word is instead, as far as it tells. */
static const char *whose_word(const struct race_page *page,
			      const struct race_window *win, size_t i,
			      uint32_t value)
{
	uint32_t number = race_number(value, win->begun);

	if (!value)
		return "zero";
	if (value == STAMP)
		return "never written";
	if (value == race_word(page->other, 0, i))
		return "the other text";
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a change that is over";
	number = race_number(value, win->begun + RACE_NUMBER_MASK);
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a change yet to come";
	return "foreign";
}

/* Where do words come from that are not of this page? */
struct origin {
	const uint32_t *words;
	uint64_t base;			/* of a region and its owner */
	unsigned int region;
	unsigned int owner;
	uint32_t incarnation;
};

static bool is_origin(const struct origin *o, uint64_t id)
{
	uint32_t number = o->words[0] >> (32 - RACE_NUMBER_BITS);
	uint64_t key = race_key(id, number);

	for (unsigned int i = 0; i < 4; i++)
		if (o->words[i] != race_word(key, number, i))
			return false;
	return true;
}

static void note_origin(const struct origin *o, unsigned int page, pid_t child)
{
	note("  it is of page %u of %s, process %u.%u, child %d, change %u\n",
	     page, region_names[o->region], o->owner, o->incarnation, child,
	     o->words[0] >> (32 - RACE_NUMBER_BITS));
}

#define MOST_PIDS	4000

static void find_origin_page(const struct origin *o, unsigned int page)
{
	uint64_t id = o->base ^ (uint64_t)page << 32;

	if (is_origin(o, id))
		note_origin(o, page, 0);
}

static void find_origin_child(const struct origin *o, unsigned int page)
{
	for (pid_t pid = 1; pid < MOST_PIDS; pid++)
		if (is_origin(o, (o->base ^ child_salt(pid)) ^
			      (uint64_t)page << 32))
			note_origin(o, page, pid);
}

/* Any page of any owner, or this page of any child. */
static void find_origin(const uint32_t *words, unsigned int page)
{
	struct origin o = { .words = words };

	for (o.region = 0; o.region < NR_REGIONS; o.region++)
		for (o.owner = 0; o.owner < options.slots; o.owner++)
			for (o.incarnation = 1; o.incarnation <=
			     control->slots[o.owner].incarnation;
			     o.incarnation++) {
				o.base = owned_id(o.region, o.owner,
						  o.incarnation);
				for (unsigned int i = 0; i < NR_BLOCKS *
				     BLOCK_PAGES; i++)
					find_origin_page(&o, i);
				find_origin_child(&o, page);
			}
}

static void complain_of_word(const char *who, const struct span *s,
			     const struct view *view,
			     const struct race_page *page, unsigned int nr,
			     size_t i, uint32_t value)
{
	const struct race_window *win = &view->win;
	uint64_t entry = 0;

	if (pagemap >= 0 && pread(pagemap, &entry, sizeof(entry),
				  ((uintptr_t)span_address(s) / PAGE_SIZE + nr) *
				  sizeof(entry)) < 0)
		entry = 0;
	complain(WORDS,
		 "%s, %s, page %u (pagemap %#llx): word %zu is %#x, %s (change %u); legal are %u to %u\n",
		 who, region_names[s->region->nr],
		 s->first * BLOCK_PAGES + nr, (unsigned long long)entry, i,
		 value, whose_word(page, win, i, value),
		 race_number(value, win->begun), win->floor, win->begun);
}

/* One complaint a page. Return: whether the page is right. */
static bool check_page(const char *who, const struct span *s,
		       const struct race_record *record,
		       const struct view *view, unsigned int nr,
		       const uint32_t *words)
{
	struct race_page page = page_of(s, nr);
	enum race_verdict verdict;
	size_t i;

	verdict = race_check_page(record, &view->win, &page, words, PAGE_WORDS,
				  &i);
	if (verdict == RACE_RIGHT) {
		control->words += PAGE_WORDS;
		return true;
	}
	if (verdict == RACE_TOO_LATE ||
	    s->region->slot->incarnation != view->incarnation) {
		control->unjudged++;
		return true;
	}
	complain_of_word(who, s, view, &page, nr, i, words[i]);
	if (!i && words[0] != STAMP && control->complaints <= 4)
		find_origin(words, s->first * BLOCK_PAGES + nr);
	return false;
}

static bool check_block(const char *who, const struct span *s,
			const struct view *view, const uint32_t *words)
{
	bool ok = true;

	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		ok &= check_page(who, s, record(s), view, i,
				 words + i * PAGE_WORDS);
	return ok;
}

/* Looks at several blocks at once. */
struct views {
	struct view block[SPAN_BLOCKS];
};

static struct views views_open(const struct span *s)
{
	struct views views;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct span block = span_block(s, i);

		views.block[i] = view_open(&block);
	}
	return views;
}

/* Of the blocks that are whole in the first @pages pages. */
static bool check_span(const char *who, const struct span *s,
		       struct views *views, const uint32_t *words,
		       size_t pages)
{
	bool ok = true;

	for (unsigned int i = 0; i < s->nr && (i + 1) * BLOCK_PAGES <= pages;
	     i++) {
		struct span block = span_block(s, i);

		view_close(&views->block[i], &block);
		ok &= check_block(who, &block, &views->block[i],
				  words + i * BLOCK_WORDS);
	}
	return ok;
}

static void check_span_error(const char *who, const struct span *s,
			     const struct views *views)
{
	int error = errno;

	control->excused++;
	if (is_passing(error))
		return;
	for (unsigned int i = 0; i < s->nr; i++) {
		struct span block = span_block(s, i);

		if (is_excused(&views->block[i], &block))
			return;
	}
	complain(ERRORS, "%s, %s, blocks %u to %u: %s without a cause\n", who,
		 region_names[s->region->nr], s->first, s->first + s->nr - 1,
		 strerror(error));
}

/* For a while, the same block for all, who would seldom meet otherwise. */
#define HOT_OPS		64

static uint64_t hot_hash(void)
{
	return race_mix(options.seed + control->ops / HOT_OPS);
}

static struct span hot_block(void)
{
	uint64_t hash = hot_hash();

	return (struct span) {
		.region = &regions[hash % NR_REGIONS],
		.first = hash / NR_REGIONS % NR_BLOCKS,
		.nr = 1,
	};
}

static struct span pick_block(struct worker *w)
{
	if (one_in(w, 2))
		return hot_block();
	return (struct span) {
		.region = &regions[below(w, NR_REGIONS)],
		.first = below(w, NR_BLOCKS),
		.nr = 1,
	};
}

static struct span pick_span(struct worker *w)
{
	struct span s = pick_block(w);

	s.nr = 1 + below(w, 1 + below(w, SPAN_BLOCKS));
	if (s.nr > NR_BLOCKS - s.first)
		s.nr = NR_BLOCKS - s.first;
	return s;
}

/* Where mappings are changed by blocks, huge pages have no chance. */
static struct span pick_mapping(struct worker *w)
{
	struct span s = pick_block(w);

	if (s.region->nr == OWN_HUGE && !one_in(w, 8))
		s.region = &regions[OWN_SMALL];
	return s;
}

/*
 * Locks. Whose owner died has perhaps left a file short and the block barred;
 * it alone could have been the cause.
 */

static void repair(const struct span *s)
{
	struct block *block = &s->region->blocks[s->first];

	if (!is_own(s->region) && s->region->fd >= 0 &&
	    ftruncate(s->region->fd, REGION_SIZE))
		complain(ERRORS, "a file cannot be made long again: %s\n",
			 strerror(errno));
	block->record.unbars = block->record.bars;
	pthread_mutex_consistent(&block->contents);
}

static void lock_contents(const struct span *s)
{
	struct block *block = &s->region->blocks[s->first];
	int ret = pthread_mutex_lock(&block->contents);

	if (ret == EOWNERDEAD)
		repair(s);
	else if (ret)
		complain(PROCESSES, "lock of a block: %s\n", strerror(ret));
}

static void unlock_contents(const struct span *s)
{
	pthread_mutex_unlock(&s->region->blocks[s->first].contents);
}

static bool get_mapping(const struct span *s)
{
	return !atomic_exchange(&mapping(s)->busy, true);
}

static void put_mapping(const struct span *s)
{
	mapping(s)->busy = false;
}

static void bar(const struct span *s)
{
	mapping(s)->bars++;
}

static void unbar(const struct span *s)
{
	mapping(s)->unbars++;
}

/* Injected faults: the n-th allocation of this thread fails */

static void inject(struct worker *w, unsigned int nth)
{
	char text[12];
	int length = snprintf(text, sizeof(text), "%u", nth);

	if (w->fail_nth < 0 || pwrite(w->fail_nth, text, length, 0) != length)
		return;
	w->injected = nth;
}

static void inject_no_more(struct worker *w)
{
	if (w->injected)
		inject(w, 0);
}

/* Where there is no way back: until it works. */
#define insist(what, done)						\
	do {								\
		int tries_ = 0;						\
									\
		inject_no_more(self);					\
		while (!(done) && ++tries_ < 2000)			\
			race_pause_ms(1);				\
		if (tries_ == 2000)					\
			complain(ERRORS, "%s: %s\n", what,		\
				 strerror(errno));			\
	} while (0)

#endif /* HMM_TORTURE_MEMORY_H */
