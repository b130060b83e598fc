// SPDX-License-Identifier: GPL-2.0-only
/*
 * Torture of device memory and of the mirror: everything at once.
 *
 * Processes with threads do at random whatever can be done to memory, while it
 * moves to devices and back, and is read and written by CPUs and devices. Other
 * processes flip the settings of mm, stop and kill them, and fill a device to
 * its last page. Each word that anybody reads must be one that may have been
 * written there: hmm_race_common.h says how that is known. At the end nothing
 * may be left: no page on a device, no charge, no pin, no isolated page.
 *
 * Who is there
 *
 *   main		starts, stops, kills and replaces the workers, and sees
 *			that they get on. It touches none of the memory, and
 *			stays out of the memory cgroup.
 *   workers		processes in slots, with threads that pick operations of
 *			a table. A worker may die at any time, by main's hand or
 *			by the OOM killer's; another takes its slot.
 *   children		forked by a worker for one check of what it inherits.
 *   meddler		flips settings, compacts, injects faults, unplugs.
 *   filler		takes all of a coherent device's memory, and gives it
 *			back, again and again.
 *
 * Memory
 *
 *   Each worker has regions of its own, and maps regions that all share, all
 *   at the same addresses. What is known of their contents is in memory that
 *   all share and nobody tortures. A region is divided into blocks.
 *
 * Locks
 *
 *   "contents" of a block is for those who change what is in it. It is robust:
 *   its owner may be killed, and the change then stays open until somebody
 *   makes a whole one. Several are taken in the order of their addresses.
 *   "busy" of a mapping keeps out of each other those who take the mapping of
 *   a block away. It is only ever tried, after contents.
 *
 *   Readers take nothing. A CPU access may fail, by SIGSEGV or SIGBUS, and any
 *   other may by an error, if there is a cause for it at that time: a mapping
 *   that was taken away or a fault that was injected.
 *
 * The dummy device
 *
 *   The base's has faults of its own, see hmm-migrate-race.c, so a device that
 *   migrates does not read there, children share the table of files with their
 *   parent, and nobody unplugs. One that knows HMM_DMIRROR_FLAGS is ours, and
 *   gets all of it.
 *
 * Thread-safe C only: threads do not call malloc(), which could map memory
 * where a block has just been taken away.
 */
#define _GNU_SOURCE
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
#ifndef HMM_DMIRROR_FLAGS
#define HMM_DMIRROR_FLAGS		_IOWR('H', 0x08, struct hmm_dmirror_cmd)
#define HMM_DMIRROR_READ_UNLOCKED	_IOWR('H', 0x09, struct hmm_dmirror_cmd)
#endif
#define FAIL_NEXT_ALLOCATION	1
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

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
	_Atomic unsigned long words, unjudged, excused;
	_Atomic unsigned long tried[MAX_OPS], done[MAX_OPS];
	_Atomic unsigned long meddled[MAX_OPS];
	_Atomic unsigned long filled, kills, stops;
	pthread_mutex_t gup_lock;
	struct slot slots[MAX_SLOTS];
	struct block shared[NR_REGIONS][NR_BLOCKS];
} *control;

static struct options {
	uint64_t seed;
	unsigned long seconds;
	unsigned long patience;
	unsigned int slots;
	unsigned int threads;
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

/* Of a worker's process. */
static struct slot *slot;
static struct region regions[NR_REGIONS];
static int devices[DEVICES] = { -1, -1, -1, -1 };
static int uffd = -1, pagemap = -1, gup_fd = -1;
static _Atomic unsigned int devices_opened;
static __thread struct worker *self;

static const char *const region_names[NR_REGIONS] = {
	"own, huge pages", "own", "own of a file",
	"shared", "shared, shmem", "shared, file",
};

/* Reporting: safe in a child of a process with threads. */

static void note(const char *format, ...)
{
	char text[512] = "# ";
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text + 2, sizeof(text) - 2, format, args) + 2;
	va_end(args);
	if (length > (int)sizeof(text) - 1)
		length = sizeof(text) - 1;
	if (write(STDOUT_FILENO, text, length) < 0)
		control->complaints++;
}

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

static bool is_anonymous(const struct region *region)
{
	return region->nr == OWN_HUGE || region->nr == OWN_SMALL;
}

/* Of its owner, in this incarnation; or of nobody. */
static uint64_t region_id(unsigned int nr, const struct slot *owner)
{
	uint64_t id = race_mix(options.seed + nr + 1);

	if (nr < NR_OWN)
		id ^= race_mix((uint64_t)(owner - control->slots) << 32 |
			       owner->incarnation);
	return id;
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
	if (value == race_word(page->other, 0, i))
		return "the other text";
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a change that is over";
	number = race_number(value, win->begun + RACE_NUMBER_MASK);
	if (value == race_word(race_key(page->id, number), number, i))
		return "of a change yet to come";
	return "foreign";
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

static struct span pick_span(struct worker *w)
{
	struct span s = {
		.region = &regions[below(w, NR_REGIONS)],
		.first = below(w, NR_BLOCKS),
	};

	s.nr = 1 + below(w, 1 + below(w, SPAN_BLOCKS));
	if (s.nr > NR_BLOCKS - s.first)
		s.nr = NR_BLOCKS - s.first;
	return s;
}

static struct span pick_block(struct worker *w)
{
	return (struct span) {
		.region = &regions[below(w, NR_REGIONS)],
		.first = below(w, NR_BLOCKS),
		.nr = 1,
	};
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

/* The CPU */

static void on_fault(int signal)
{
	if (self && self->guarded)
		siglongjmp(self->jump, 1);
	complain(PROCESSES, "signal %d out of place\n", signal);
	_exit(KSFT_FAIL);
}

static void catch_faults(void)
{
	struct sigaction action = {
		.sa_handler = on_fault,
		.sa_flags = SA_NODEFER,
	};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

/* Word by word, since that is how it is judged. */
static void copy_words(uint32_t *to, const uint32_t *from, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		__atomic_store_n(&to[i],
				 __atomic_load_n(&from[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

/* Return: false if there was no access to the memory. */
static bool try_copy(void *to, const void *from, size_t size)
{
	if (sigsetjmp(self->jump, 0)) {
		self->guarded = false;
		errno = EFAULT;
		return false;
	}
	self->guarded = true;
	copy_words(to, from, size / sizeof(uint32_t));
	self->guarded = false;
	return true;
}

static bool cpu_read_block(struct worker *w, const char *who,
			   const struct span *s)
{
	struct view view = view_open(s);

	if (!try_copy(w->buffer, span_address(s), BLOCK_SIZE)) {
		check_error(who, &view, s);
		return false;
	}
	view_close(&view, s);
	return check_block(who, s, &view, w->buffer);
}

static bool cpu_read(struct worker *w)
{
	struct span s = pick_block(w);

	return cpu_read_block(w, "CPU read", &s);
}

/* With w->buffer filled for the change. */
static bool cpu_store(struct worker *w, const struct span *s)
{
	struct view view = view_open(s);

	if (try_copy(span_address(s), w->buffer, BLOCK_SIZE))
		return true;
	check_error("CPU write", &view, s);
	return false;
}

/* Under contents. A change that stays open is one that others can follow. */
static bool cpu_fill(struct worker *w, const struct span *s)
{
	uint32_t number = race_change_begin(record(s), RACE_LEAVES_WORDS);

	fill_block(w->buffer, s, number);
	for (int tries = 0; tries < 20; tries++) {
		if (cpu_store(w, s)) {
			race_change_end(record(s));
			return true;
		}
		race_pause_ms(1);
	}
	return false;
}

static bool cpu_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	lock_contents(&s);
	ok = cpu_fill(w, &s);
	unlock_contents(&s);
	return ok;
}

/* The same in all blocks, for KSM; the text of the file would do no good. */
static bool write_same(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok = false;

	s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	lock_contents(&s);
	if (!race_window_is_wide(record(&s))) {
		race_change_begin(record(&s), RACE_LEAVES_OTHER);
		fill_other(w->buffer, &s);
		ok = cpu_store(w, &s);
		if (ok)
			race_change_end(record(&s));
	}
	unlock_contents(&s);
	return ok;
}

/* Devices */

static int pick_of(struct worker *w, unsigned int first, unsigned int step)
{
	unsigned int nr = first + below(w, DEVICES / step) * step;

	if (!have_device[nr])
		nr %= 2;
	return have_device[nr] ? devices[nr] : -1;
}

/* A device that reads and writes, and one that migrates. */
static int far_device(struct worker *w)
{
	return own_driver ? pick_of(w, 0, 1) : pick_of(w, 1, 2);
}

static int near_device(struct worker *w)
{
	return own_driver ? pick_of(w, 0, 1) : pick_of(w, 0, 2);
}

static bool device_read_span(struct worker *w, const char *who, int fd,
			     unsigned long request, const struct span *s)
{
	struct views views = views_open(s);
	size_t pages = s->nr * BLOCK_PAGES;

	if (race_device(fd, request, span_address(s), pages, w->buffer)) {
		check_span_error(who, s, &views);
		return false;
	}
	return check_span(who, s, &views, w->buffer, pages);
}

static bool device_read(struct worker *w)
{
	struct span s = pick_span(w);
	int fd = far_device(w);

	if (own_driver && one_in(w, 2))
		return device_read_span(w, "unlocked device read", fd,
					HMM_DMIRROR_READ_UNLOCKED, &s);
	return device_read_span(w, "device read", fd, HMM_DMIRROR_READ, &s);
}

/* Under contents. What the device did not write, the CPU does. */
static bool device_fill(struct worker *w, int fd, const struct span *s)
{
	struct view view = view_open(s);

	fill_block(w->buffer, s,
		   race_change_begin(record(s), RACE_LEAVES_WORDS));
	if (!race_device(fd, HMM_DMIRROR_WRITE, span_address(s), BLOCK_PAGES,
			 w->buffer)) {
		race_change_end(record(s));
		return true;
	}
	check_error("device write", &view, s);
	cpu_fill(w, s);
	return false;
}

static bool device_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	lock_contents(&s);
	ok = device_fill(w, far_device(w), &s);
	unlock_contents(&s);
	return ok;
}

static unsigned int count_in_device(int fd, char *addr, unsigned int nr)
{
	unsigned char perm[SPAN_BLOCKS * BLOCK_PAGES] = {};
	unsigned int found = 0;

	if (race_device(fd, HMM_DMIRROR_SNAPSHOT, addr, nr, perm))
		return 0;
	for (unsigned int i = 0; i < nr; i++) {
		unsigned char kind = perm[i] & 0xf0;

		found += kind == HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL ||
			 kind == HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL;
	}
	return found;
}

/* Pages out of step with blocks; with the base's driver, into the gap. */
static size_t pick_pages(struct worker *w, const struct span *s, char **addr)
{
	unsigned int skip = below(w, BLOCK_PAGES);

	*addr = span_address(s) + skip * PAGE_SIZE;
	if (!own_driver)
		return (s->region->addr + REGION_SIZE - *addr) / PAGE_SIZE + 1;
	return 1 + below(w, s->nr * BLOCK_PAGES - skip);
}

static void fail_next_allocation(struct worker *w, int fd)
{
	if (own_driver && one_in(w, 8))
		race_device(fd, HMM_DMIRROR_FLAGS, NULL, FAIL_NEXT_ALLOCATION,
			    NULL);
}

/* The device says how much it has read back, also if that is not all. */
static bool migrate_checked(struct worker *w, int fd, const struct span *s)
{
	struct views views = views_open(s);
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)span_address(s),
		.ptr = (uintptr_t)w->buffer,
		.npages = s->nr * BLOCK_PAGES,
	};

	ioctl(fd, HMM_DMIRROR_MIGRATE_TO_DEV, &cmd);
	check_span("read after migration", s, &views, w->buffer, cmd.cpages);
	return cmd.cpages;
}

static bool to_device(struct worker *w)
{
	struct span s = pick_span(w);
	int fd = near_device(w);
	unsigned int probe;
	size_t nr;
	char *addr;

	if (!own_driver && s.first < NR_BLOCKS / 2)
		s.first += NR_BLOCKS / 2;
	fail_next_allocation(w, fd);
	if (own_driver && one_in(w, 2))
		return migrate_checked(w, fd, &s);
	nr = pick_pages(w, &s, &addr);
	if (!race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr, w->buffer))
		return true;
	probe = nr - 1 < BLOCK_PAGES ? nr - 1 : BLOCK_PAGES;
	return probe && count_in_device(fd, addr, probe);
}

static bool to_system(struct worker *w)
{
	struct span s = pick_span(w);
	int fd = near_device(w);

	fail_next_allocation(w, fd);
	return !race_device(fd, HMM_DMIRROR_MIGRATE_TO_SYS, span_address(&s),
			    s.nr * BLOCK_PAGES, w->buffer);
}

static bool snapshot(struct worker *w)
{
	struct span s = pick_span(w);

	return count_in_device(near_device(w), span_address(&s),
			       s.nr * BLOCK_PAGES);
}

/* Exclusive access */

/*
 * ENOENT: taken away again before it could read. EOPNOTSUPP: there are no
 * device-exclusive entries for what is not anonymous.
 */
static bool exclusive_may_fail(const struct span *s, int error)
{
	return error == ENOENT || (error == EOPNOTSUPP && !is_own(s->region));
}

static bool make_exclusive(struct worker *w, int fd, const struct span *s)
{
	struct view view = view_open(s);

	if (race_device(fd, HMM_DMIRROR_EXCLUSIVE, span_address(s),
			BLOCK_PAGES, w->buffer)) {
		if (!exclusive_may_fail(s, errno))
			check_error("exclusive access", &view, s);
		return false;
	}
	view_close(&view, s);
	return check_block("exclusive read", s, &view, w->buffer);
}

static bool is_exclusive(int fd, const struct span *s)
{
	return race_device(fd, HMM_DMIRROR_CHECK_EXCLUSIVE, span_address(s),
			   BLOCK_PAGES, NULL) && errno == EPERM;
}

static bool exclusive(struct worker *w)
{
	struct span s = pick_block(w);

	return make_exclusive(w, far_device(w), &s);
}

/* The CPU writes all of it, so the device has none of it any more. */
static bool take_back(struct worker *w)
{
	struct span s = pick_block(w);
	int fd = far_device(w);
	bool had;

	s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	lock_contents(&s);
	had = make_exclusive(w, fd, &s) && is_exclusive(fd, &s);
	cpu_fill(w, &s);
	unlock_contents(&s);
	return had;
}

/* What happens to the memory meanwhile */

static uint8_t hole_leaves(const struct region *region)
{
	return region->nr == OWN_FILE ? RACE_LEAVES_OTHER : RACE_LEAVES_ZERO;
}

/* Of shared memory this takes only the mapping. */
static bool discard(struct worker *w)
{
	struct span s = pick_block(w);
	char *addr = span_address(&s);
	bool ok;

	if (!is_own(s.region))
		return !madvise(addr, BLOCK_SIZE, MADV_DONTNEED);
	lock_contents(&s);
	race_change_begin(record(&s), hole_leaves(s.region));
	ok = !madvise(addr, BLOCK_SIZE, MADV_DONTNEED);
	if (ok)
		race_change_end(record(&s));
	unlock_contents(&s);
	return ok;
}

static bool let_free(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok = false;

	s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	lock_contents(&s);
	if (!race_window_is_wide(record(&s))) {
		race_change_begin(record(&s), RACE_LEAVES_ZERO);
		ok = !madvise(span_address(&s), BLOCK_SIZE, MADV_FREE);
	}
	unlock_contents(&s);
	return ok;
}

/* Advice that leaves the contents alone. */
static bool advise(struct worker *w)
{
	static const int advice[] = {
		MADV_PAGEOUT, MADV_PAGEOUT, MADV_PAGEOUT, MADV_COLD,
		MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_WILLNEED,
		MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_NOHUGEPAGE,
		MADV_HUGEPAGE,
	};
	struct span s = pick_span(w);
	unsigned int which = below(w, ARRAY_SIZE(advice));

	return !madvise(span_address(&s), span_size(&s), advice[which]);
}

static bool collapse(struct worker *w)
{
	struct region *region = &regions[below(w, NR_REGIONS)];

	return !madvise(region->addr, REGION_SIZE, MADV_COLLAPSE);
}

static bool lock_memory(struct worker *w)
{
	struct span s = pick_span(w);
	char *addr = span_address(&s);
	unsigned int flags = one_in(w, 2) ? MLOCK_ONFAULT : 0;
	bool ok = !mlock2(addr, span_size(&s), flags);

	munlock(addr, span_size(&s));
	return ok;
}

static bool map_memory(const struct region *region, char *addr, size_t size,
		       int flags)
{
	int prot = PROT_READ | PROT_WRITE;

	flags |= is_own(region) ? MAP_PRIVATE : MAP_SHARED;
	if (region->fd < 0)
		flags |= MAP_ANONYMOUS;
	if (mmap(addr, size, prot, flags, region->fd,
		 region->fd < 0 ? 0 : addr - region->addr) != addr)
		return false;
	madvise(addr, size, region->nr == OWN_HUGE ? MADV_HUGEPAGE :
						     MADV_NOHUGEPAGE);
	return true;
}

/* With the mapping to oneself. */
static bool map_anew(struct worker *w, const struct span *s)
{
	char *addr = span_address(s);
	int flags = MAP_FIXED;

	if (one_in(w, 2) && !munmap(addr, span_size(s)))
		flags = MAP_FIXED_NOREPLACE;
	insist("mmap", map_memory(s->region, addr, span_size(s), flags));
	return true;
}

static bool remap_own(struct worker *w, const struct span *s)
{
	lock_contents(s);
	race_change_begin(record(s), hole_leaves(s->region));
	map_anew(w, s);
	race_change_end(record(s));
	unlock_contents(s);
	return true;
}

/* Anonymous memory that is shared could not be mapped again. */
static bool remap(struct worker *w)
{
	struct span s = pick_mapping(w);
	bool ok;

	if (s.region->nr == SHARED_ANON || !get_mapping(&s))
		return false;
	bar(&s);
	ok = is_own(s.region) ? remap_own(w, &s) : map_anew(w, &s);
	unbar(&s);
	put_mapping(&s);
	return ok;
}

/* The whole region anew, or there would soon be no huge page any more. */
static bool renew(struct worker *w)
{
	struct region *region = &regions[OWN_HUGE];
	struct span all = { region, 0, NR_BLOCKS };
	unsigned int got = 0, locked;
	struct span s;

	for (; got < NR_BLOCKS; got++) {
		s = span_block(&all, got);
		if (!get_mapping(&s))
			break;
	}
	for (locked = 0; got == NR_BLOCKS && locked < NR_BLOCKS; locked++) {
		s = span_block(&all, locked);
		lock_contents(&s);
		bar(&s);
		race_change_begin(record(&s), RACE_LEAVES_ZERO);
	}
	if (locked)
		map_anew(w, &all);
	for (unsigned int i = 0; i < locked; i++) {
		s = span_block(&all, i);
		race_change_end(record(&s));
		unbar(&s);
		unlock_contents(&s);
	}
	for (unsigned int i = 0; i < got; i++) {
		s = span_block(&all, i);
		put_mapping(&s);
	}
	return locked;
}

static bool move_block(char *from, char *to)
{
	return mremap(from, BLOCK_SIZE, BLOCK_SIZE,
		      MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

/* There, perhaps to a device, and home. */
static bool move_there_and_back(struct worker *w, const struct span *s)
{
	char *addr = span_address(s);
	struct view view = view_open(s);
	bool moved = move_block(addr, w->spare);

	if (moved) {
		if (one_in(w, 2))
			race_device(near_device(w), HMM_DMIRROR_MIGRATE_TO_DEV,
				    w->spare, BLOCK_PAGES + !own_driver,
				    w->buffer);
		if (try_copy(w->buffer, w->spare, BLOCK_SIZE)) {
			view_close(&view, s);
			check_block("CPU read of moved memory", s, &view,
				    w->buffer);
		}
		insist("mremap", move_block(w->spare, addr));
	}
	insist("mmap of the spare",
	       mmap(w->spare, BLOCK_SIZE, PROT_NONE, MAP_PRIVATE |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w->spare);
	return moved;
}

static bool move(struct worker *w)
{
	struct span s = pick_mapping(w);
	bool ok;

	if (!get_mapping(&s))
		return false;
	bar(&s);
	ok = move_there_and_back(w, &s);
	unbar(&s);
	put_mapping(&s);
	return ok;
}

/* The words are no change's; a device that can write them is found. */
static void try_forbidden_write(struct worker *w, const struct span *s)
{
	memset(w->buffer, 0xee, BLOCK_SIZE);
	if (!race_device(far_device(w), HMM_DMIRROR_WRITE, span_address(s),
			 BLOCK_PAGES, w->buffer))
		complain(ERRORS, "a device writes to what is read-only: %s, block %u\n",
			 region_names[s->region->nr], s->first);
}

static bool protect_mapping(struct worker *w, const struct span *s,
			    bool (*meanwhile)(struct worker *w,
					      const struct span *s))
{
	char *addr = span_address(s);
	int prot = one_in(w, 3) ? PROT_NONE : PROT_READ;
	bool ok;

	bar(s);
	ok = !mprotect(addr, BLOCK_SIZE, prot);
	if (ok)
		ok = meanwhile(w, s);
	insist("mprotect back",
	       !mprotect(addr, BLOCK_SIZE, PROT_READ | PROT_WRITE));
	unbar(s);
	return ok;
}

static bool forbidden(struct worker *w, const struct span *s)
{
	try_forbidden_write(w, s);
	cpu_read_block(w, "CPU read of read-only memory", s);
	return true;
}

static bool nothing(struct worker *w, const struct span *s)
{
	return true;
}

/* Either writers run into it, or nobody can write at all. */
static bool protect(struct worker *w)
{
	struct span s = pick_mapping(w);
	bool alone = one_in(w, 2), ok = false;

	if (alone)
		lock_contents(&s);
	if (get_mapping(&s)) {
		ok = protect_mapping(w, &s, alone ? forbidden : nothing);
		put_mapping(&s);
	}
	if (alone)
		unlock_contents(&s);
	return ok;
}

/* Files */

static struct region *pick_file(struct worker *w)
{
	return &regions[one_in(w, 2) ? SHARED_SHMEM : SHARED_FILE];
}

static bool punch(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	s.region = pick_file(w);
	lock_contents(&s);
	race_change_begin(record(&s), RACE_LEAVES_ZERO);
	if (one_in(w, 2))
		ok = !fallocate(s.region->fd, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, s.first * BLOCK_SIZE,
				BLOCK_SIZE);
	else
		ok = !madvise(span_address(&s), BLOCK_SIZE, MADV_REMOVE);
	if (ok)
		race_change_end(record(&s));
	else
		cpu_fill(w, &s);
	unlock_contents(&s);
	return ok;
}

static void lock_tail(const struct span *tail)
{
	for (unsigned int i = 0; i < tail->nr; i++) {
		struct span s = span_block(tail, i);

		lock_contents(&s);
		race_bar(record(&s));
		race_change_begin(record(&s), RACE_LEAVES_ZERO);
	}
}

static void unlock_tail(const struct span *tail, bool whole)
{
	for (unsigned int i = 0; i < tail->nr; i++) {
		struct span s = span_block(tail, i);

		if (whole)
			race_change_end(record(&s));
		race_unbar(record(&s));
		unlock_contents(&s);
	}
}

/* Not always at a block's first byte: the rest of that page is zeroed. */
static bool truncate_file(struct worker *w)
{
	struct span tail = { .region = pick_file(w) };
	bool ok;

	tail.nr = 1 + below(w, TAIL_BLOCKS);
	tail.first = NR_BLOCKS - tail.nr;
	lock_tail(&tail);
	ok = !ftruncate(tail.region->fd, tail.first * BLOCK_SIZE);
	if (one_in(w, 2))
		race_pause_ms(below(w, 3));
	insist("ftruncate", !ftruncate(tail.region->fd, REGION_SIZE));
	unlock_tail(&tail, ok);
	return ok;
}

static bool file_read(struct worker *w)
{
	struct span s = pick_block(w);
	struct view view;

	s.region = pick_file(w);
	view = view_open(&s);
	if (pread(s.region->fd, w->buffer, BLOCK_SIZE,
		  s.first * BLOCK_SIZE) != (ssize_t)BLOCK_SIZE) {
		check_error("read() of a file", &view, &s);
		return false;
	}
	view_close(&view, &s);
	return check_block("read() of a file", &s, &view, w->buffer);
}

static bool file_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	s.region = pick_file(w);
	lock_contents(&s);
	fill_block(w->buffer, &s,
		   race_change_begin(record(&s), RACE_LEAVES_WORDS));
	ok = pwrite(s.region->fd, w->buffer, BLOCK_SIZE,
		    s.first * BLOCK_SIZE) == (ssize_t)BLOCK_SIZE;
	if (ok)
		race_change_end(record(&s));
	else
		cpu_fill(w, &s);
	unlock_contents(&s);
	return ok;
}

/* Direct I/O: the disk reads from memory, */
static bool direct_out(struct worker *w)
{
	struct span s = pick_block(w);
	struct view view = view_open(&s);

	if (w->scratch < 0)
		return false;
	if (pwrite(w->scratch, span_address(&s), BLOCK_SIZE, 0) !=
	    (ssize_t)BLOCK_SIZE) {
		check_error("direct write", &view, &s);
		return false;
	}
	view_close(&view, &s);
	if (pread(w->scratch, w->buffer, BLOCK_SIZE, 0) != (ssize_t)BLOCK_SIZE)
		return false;
	return check_block("direct write", &s, &view, w->buffer);
}

/* and writes to it. */
static bool direct_in(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	if (w->scratch < 0)
		return false;
	lock_contents(&s);
	fill_block(w->buffer, &s,
		   race_change_begin(record(&s), RACE_LEAVES_WORDS));
	ok = pwrite(w->scratch, w->buffer, BLOCK_SIZE, BLOCK_SIZE) ==
	     (ssize_t)BLOCK_SIZE &&
	     pread(w->scratch, span_address(&s), BLOCK_SIZE, BLOCK_SIZE) ==
	     (ssize_t)BLOCK_SIZE;
	if (ok)
		race_change_end(record(&s));
	else
		cpu_fill(w, &s);
	unlock_contents(&s);
	return ok;
}

/* Pins */

/* Pins of the zero page are not counted, of which gup_test would warn. */
static bool pin_short(struct worker *w)
{
	static const unsigned long kinds[] = {
		GUP_FAST_BENCHMARK, PIN_FAST_BENCHMARK, PIN_LONGTERM_BENCHMARK,
		GUP_BASIC_TEST, PIN_BASIC_TEST,
	};
	struct span s = pick_span(w);
	struct gup_test gup = {
		.addr = (uintptr_t)span_address(&s),
		.size = span_size(&s),
		.nr_pages_per_call = 1 + below(w, BLOCK_PAGES),
		.gup_flags = FOLL_WRITE,
	};

	return gup_fd >= 0 &&
	       !ioctl(gup_fd, kinds[below(w, ARRAY_SIZE(kinds))], &gup) &&
	       gup.size == span_size(&s);
}

static void check_pinned(struct worker *w, const char *who,
			 const struct span *s)
{
	struct view view = view_open(s);
	uint64_t to = (uintptr_t)w->buffer;

	if (ioctl(gup_fd, PIN_LONGTERM_TEST_READ, &to)) {
		check_error("read through a pin", &view, s);
		return;
	}
	view_close(&view, s);
	check_block(who, s, &view, w->buffer);
}

/* Whoever has pinned the pages sees what the CPU and the device write. */
static bool pin_block(struct worker *w, const struct span *s)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)span_address(s),
		.size = BLOCK_SIZE,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			 (one_in(w, 2) ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0),
	};

	if (ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin))
		return false;
	check_pinned(w, "pinned pages", s);
	if (cpu_fill(w, s))
		check_pinned(w, "pinned pages after a CPU write", s);
	if (device_fill(w, far_device(w), s))
		check_pinned(w, "pinned pages after a device write", s);
	ioctl(gup_fd, PIN_LONGTERM_TEST_STOP);
	return true;
}

/*
 * gup_test keeps one set of pins for all who use it, and lets go of them
 * whenever a file of it is closed. So there is one file, which main opens, and
 * the pins of who was killed go when the next one comes.
 */
static bool pin_long(struct worker *w)
{
	struct span s = pick_block(w);
	bool pinned;
	int ret;

	if (gup_fd < 0)
		return false;
	ret = pthread_mutex_trylock(&control->gup_lock);
	if (ret == EOWNERDEAD) {
		ioctl(gup_fd, PIN_LONGTERM_TEST_STOP);
		pthread_mutex_consistent(&control->gup_lock);
	} else if (ret) {
		return false;
	}
	lock_contents(&s);
	pinned = pin_block(w, &s);
	unlock_contents(&s);
	pthread_mutex_unlock(&control->gup_lock);
	return pinned;
}

/* Pages in a pipe may be those that the process has, or had. */
static bool splice_out(struct worker *w)
{
	struct span s = pick_block(w);
	struct iovec part = { span_address(&s), BLOCK_SIZE };
	struct view view = view_open(&s);
	ssize_t held = vmsplice(w->pipe[1], &part, 1, SPLICE_F_NONBLOCK);
	ssize_t got = 0, nr = 1;

	for (; got < held && nr > 0; got += nr)
		nr = read(w->pipe[0], (char *)w->buffer + got, held - got);
	if (held != (ssize_t)BLOCK_SIZE || got != held) {
		if (held < 0)
			check_error("vmsplice", &view, &s);
		return false;
	}
	view_close(&view, &s);
	return check_block("read of spliced pages", &s, &view, w->buffer);
}

/* Another process's memory */

static struct region region_of(struct slot *other, unsigned int nr)
{
	struct region region = regions[nr];

	region.slot = other;
	region.blocks = other->own[nr];
	region.mappings = other->mappings[nr];
	region.id = region_id(nr, other);
	return region;
}

static bool copy_from(pid_t pid, void *to, const struct span *s)
{
	char path[32];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = pread(fd, to, BLOCK_SIZE, (uintptr_t)span_address(s));
	close(fd);
	return got == (ssize_t)BLOCK_SIZE;
}

static bool read_other(struct worker *w)
{
	struct slot *other = &control->slots[below(w, options.slots)];
	struct region region = region_of(other, below(w, NR_OWN));
	struct span s = { &region, below(w, NR_BLOCKS), 1 };
	struct view view = view_open(&s);
	pid_t pid = other->pid;

	if (!other->ready || pid <= 0 || !copy_from(pid, w->buffer, &s))
		return false;
	view_close(&view, &s);
	return check_block("read of another process", &s, &view, w->buffer);
}

/* Userfaultfd: write protection that the kernel takes back by itself */

static bool write_protect(struct worker *w)
{
	struct span s = pick_span(w);
	struct uffdio_range range = {
		.start = (uintptr_t)span_address(&s),
		.len = span_size(&s),
	};
	struct uffdio_register reg = {
		.range = range,
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect protect = {
		.range = range,
		.mode = one_in(w, 4) ? 0 : UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (uffd < 0)
		return false;
	ioctl(uffd, UFFDIO_REGISTER, &reg);
	if (one_in(w, 16))
		return !ioctl(uffd, UFFDIO_UNREGISTER, &range);
	return !ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
}

static int open_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    UFFD_FEATURE_WP_UNPOPULATED,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Those who only look at page tables */
static bool inspect(struct worker *w)
{
	struct span s = pick_span(w);
	char text[1024];
	int fd;

	if (pread(pagemap, w->buffer, s.nr * BLOCK_PAGES * sizeof(uint64_t),
		  (uintptr_t)span_address(&s) / PAGE_SIZE *
		  sizeof(uint64_t)) < 0)
		return false;
	if (!one_in(w, 8))
		return true;
	if (one_in(w, 4))
		return !race_write_file("/proc/self/clear_refs",
					one_in(w, 2) ? "1" : "4");
	fd = open("/proc/self/smaps_rollup", O_RDONLY);
	if (fd < 0)
		return false;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
	return true;
}

/* Fork */

/* What a child knows: a copy of the record, and keys of its own. */
struct childhood {
	struct race_record record;
	struct region region;
	struct span s;
	struct view view;
	int near, far;
};

static bool child_check(struct worker *w, const char *who,
			struct childhood *c)
{
	bool ok = true;

	if (!try_copy(w->buffer, span_address(&c->s), BLOCK_SIZE)) {
		check_error(who, &c->view, &c->s);
		return false;
	}
	for (unsigned int i = 0; i < BLOCK_PAGES; i++)
		ok &= check_page(who, &c->s, &c->record, &c->view, i,
				 w->buffer + i * PAGE_WORDS);
	return ok;
}

static void child_migrate(struct worker *w, struct childhood *c)
{
	if (c->near >= 0)
		race_device(c->near, HMM_DMIRROR_MIGRATE_TO_DEV,
			    span_address(&c->s), BLOCK_PAGES, w->buffer);
}

/* The child's own words: wrong for the parent, and the other way round. */
static void child_write(struct worker *w, struct childhood *c)
{
	uint32_t number = ++c->record.begun;

	c->region.id ^= race_mix(getpid());
	c->record.leaves[number % RACE_RING] = RACE_LEAVES_WORDS;
	fill_block(w->buffer, &c->s, number);
	if (c->far < 0 || one_in(w, 2) ||
	    race_device(c->far, HMM_DMIRROR_WRITE, span_address(&c->s),
			BLOCK_PAGES, w->buffer))
		insist("CPU write of a child",
		       try_copy(span_address(&c->s), w->buffer, BLOCK_SIZE));
	c->view.win.floor = number;
	c->view.win.begun = number;
}

static int child_device(struct worker *w, unsigned int nr)
{
	if (!own_driver && devices_opened++ > 16)
		return -1;
	return have_device[nr] ? race_open_device(nr) : -1;
}

/* The parent's device is none of the child's business. */
static void child_inherited(struct worker *w, const struct span *s)
{
	if (!own_driver)
		return;
	if (!race_device(far_device(w), HMM_DMIRROR_READ, span_address(s),
			 BLOCK_PAGES, w->buffer) || errno != EBADF)
		complain(ERRORS, "a child uses its parent's device: %s\n",
			 strerror(errno));
}

static int child(struct worker *w, struct childhood *c)
{
	struct span s = pick_block(w);
	bool ok;

	c->near = one_in(w, 2) ? child_device(w, 2 * below(w, 2)) : -1;
	c->far = one_in(w, 2) ? child_device(w, 1 + 2 * below(w, 2)) : -1;
	if (one_in(w, 2))
		child_migrate(w, c);
	ok = child_check(w, "copy of the parent's memory", c);
	child_write(w, c);
	child_migrate(w, c);
	ok &= child_check(w, "memory after fork", c);
	child_inherited(w, &s);
	return ok ? KSFT_PASS : KSFT_FAIL;
}

static void wait_for_child(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		complain(PROCESSES, "a child ends by signal %d\n",
			 WTERMSIG(status));
}

/* Under contents, with the mapping to oneself: the child finds it as it is. */
static pid_t fork_now(struct worker *w, const struct span *s)
{
	struct childhood c;
	pid_t pid;

	c.region = *s->region;
	c.s = (struct span) { &c.region, s->first, 1 };
	c.view = view_open(s);
	view_close(&c.view, s);
	memcpy(&c.record, record(s), sizeof(c.record));
	pid = syscall(SYS_clone, SIGCHLD | (own_driver ? 0 : CLONE_FILES),
		      0, 0, 0, 0);
	if (!pid) {
		w->injected = false;	/* that was the parent's */
		_exit(child(w, &c));
	}
	return pid;
}

static bool fork_child(struct worker *w)
{
	struct span s = pick_block(w);
	pid_t pid = -1;

	s.region = &regions[below(w, NR_OWN)];
	lock_contents(&s);
	if (get_mapping(&s)) {
		pid = fork_now(w, &s);
		put_mapping(&s);
	}
	unlock_contents(&s);
	if (pid <= 0)
		return false;
	wait_for_child(pid);
	return true;
}

/* The table of operations */

struct op {
	const char *name;
	bool (*run)(struct worker *w);
	unsigned int weight;
	bool may_fail;		/* where the system cannot do it */
	bool off;
};

#define OP(name_, run_, weight_, ...)					\
	{ .name = name_, .run = run_, .weight = weight_, __VA_ARGS__ }

static struct op ops[] = {
	OP("CPU read", cpu_read, 10),
	OP("CPU write", cpu_write, 10),
	OP("write of the same", write_same, 3),
	OP("device read", device_read, 12),
	OP("device write", device_write, 12),
	OP("to device", to_device, 16),
	OP("to system", to_system, 4),
	OP("snapshot", snapshot, 2),
	OP("exclusive", exclusive, 3),
	OP("exclusive and back", take_back, 2),
	OP("fork", fork_child, 2),
	OP("MADV_DONTNEED", discard, 3),
	OP("MADV_FREE", let_free, 3),
	OP("advice", advise, 6),
	OP("collapse", collapse, 1, .may_fail = true),
	OP("mlock", lock_memory, 1),
	OP("mmap", remap, 3),
	OP("region anew", renew, 1, .may_fail = true),
	OP("mremap", move, 3),
	OP("mprotect", protect, 4),
	OP("punch", punch, 2),
	OP("truncate", truncate_file, 1),
	OP("read()", file_read, 2),
	OP("write()", file_write, 2),
	OP("direct out", direct_out, 2, .may_fail = true),
	OP("direct in", direct_in, 2, .may_fail = true),
	OP("pin", pin_short, 4, .may_fail = true),
	OP("long-term pin", pin_long, 2, .may_fail = true),
	OP("vmsplice", splice_out, 2),
	OP("other process", read_other, 2),
	OP("uffd-wp", write_protect, 3, .may_fail = true),
	OP("inspect", inspect, 2),
};

/* Is a part of this name in a list with commas? */
static bool is_listed(const char *name, const char *list)
{
	char copy[256], *part, *next = copy;

	snprintf(copy, sizeof(copy), "%s", list);
	while ((part = strsep(&next, ",")))
		if (*part && strstr(name, part))
			return true;
	return false;
}

static bool is_wanted(const char *name)
{
	return (!options.only || is_listed(name, options.only)) &&
	       !(options.without && is_listed(name, options.without));
}

static void choose_ops(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		ops[i].off = !is_wanted(ops[i].name);
}

static size_t pick_op(struct worker *w)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		sum += ops[i].off ? 0 : ops[i].weight;
	at = below(w, sum);
	for (i = 0; ops[i].off || at >= ops[i].weight; i++)
		at -= ops[i].off ? 0 : ops[i].weight;
	return i;
}

/* Workers */

static void *memory(size_t size, int prot)
{
	void *addr = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must_have(addr != MAP_FAILED, "memory");
	return addr;
}

static int open_scratch(unsigned int index)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/hmm-torture.%d.%u",
		 options.directory, getpid(), index);
	fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	unlink(path);
	return fd;
}

static void set_up_worker(struct worker *w, unsigned int index)
{
	w->index = index;
	w->random = race_mix(options.seed ^ race_mix(
			(uint64_t)(slot - control->slots) << 40 |
			(uint64_t)slot->incarnation << 8 | index));
	/* one page more for what runs into the gap */
	w->buffer = memory(REGION_SIZE + PAGE_SIZE, PROT_READ | PROT_WRITE);
	w->spare = memory(3 * PAGE_SIZE + BLOCK_SIZE, PROT_NONE);
	must_have(!pipe(w->pipe), "pipe");
	must_have(fcntl(w->pipe[1], F_SETPIPE_SZ, BLOCK_SIZE) >= 0,
		  "size of a pipe");
	w->scratch = open_scratch(index);
	w->fail_nth = -1;
}

static void run_op(struct worker *w)
{
	size_t i = pick_op(w);

	if (can_inject && one_in(w, 20))
		inject(w, 1 + below(w, 12));
	control->tried[i]++;
	control->done[i] += ops[i].run(w);
	inject_no_more(w);
	slot->progress++;
}

static void *work(void *arg)
{
	self = arg;
	if (can_inject) {
		self->fail_nth = open("/proc/thread-self/fail-nth", O_RDWR);
		race_write_file("/proc/thread-self/make-it-fail", "1");
	}
	while (!control->over)
		run_op(self);
	race_write_file("/proc/thread-self/make-it-fail", "0");
	return NULL;
}

static void set_up_region(struct region *region)
{
	region->slot = slot;
	region->id = region_id(region->nr, slot);
	region->mappings = slot->mappings[region->nr];
	if (is_own(region))
		region->blocks = slot->own[region->nr];
	if (region->nr != SHARED_ANON)
		must_have(map_memory(region, region->addr, REGION_SIZE,
				     MAP_FIXED), "region");
}

static void set_up_process(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (have_device[i])
			devices[i] = race_open_device(i);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uffd = open_uffd();
	catch_faults();
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		set_up_region(&regions[i]);
}

/* Nothing moves any more, so a device can read it all, too. */
static void check_regions(struct worker *w, unsigned int first,
			  unsigned int end)
{
	self = w;
	for (unsigned int r = first; r < end; r++) {
		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			struct span s = { &regions[r], b, 1 };

			cpu_read_block(w, "CPU read at the end", &s);
			device_read_span(w, "device read at the end",
					 far_device(w), HMM_DMIRROR_READ, &s);
		}
	}
}

#define MEMCG		"/sys/fs/cgroup/hmm-torture"

static void enter_cgroup(const char *procs)
{
	must_have(!race_write_file(procs, "0"), "move to the cgroup");
}

static void worker_process(void)
{
	static struct worker workers[MAX_THREADS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(MEMCG "/work/cgroup.procs");
	set_up_process();
	slot->ready = true;
	for (unsigned int i = 0; i < options.threads; i++)
		set_up_worker(&workers[i], i);
	for (unsigned int i = 0; i < options.threads; i++)
		must_have(!pthread_create(&workers[i].thread, NULL, work,
					  &workers[i]), "thread");
	for (unsigned int i = 0; i < options.threads; i++)
		pthread_join(workers[i].thread, NULL);
	check_regions(&workers[0], 0, NR_OWN);
	_exit(KSFT_PASS);
}

/* The shared regions, when all workers are gone. */
static void last_look(void)
{
	static struct worker w;

	enter_cgroup(MEMCG "/work/cgroup.procs");
	slot = &control->slots[0];
	memset(slot->mappings, 0, sizeof(slot->mappings));
	set_up_process();
	set_up_worker(&w, 0);
	self = &w;
	for (unsigned int r = NR_OWN; r < NR_REGIONS; r++)
		for (unsigned int b = 0; b < NR_BLOCKS; b++) {
			struct span s = { &regions[r], b, 1 };

			/* one that its killed owner could not repair */
			lock_contents(&s);
			unlock_contents(&s);
		}
	check_regions(&w, NR_OWN, NR_REGIONS);
	_exit(KSFT_PASS);
}

/* The filler of a coherent device */

#define FILL_PAGES	((256UL << 20) / PAGE_SIZE + 256)
#define FILL_STEP	64UL
#define MARK_STEP	16

struct filler {
	uint32_t *area;
	uint32_t *buffer;
	uint64_t random;
	uint64_t marks;
	int fd;
};

static uint32_t *filler_page(const struct filler *f, size_t page)
{
	return f->area + page * PAGE_WORDS;
}

/* Return: how many of some pages are on the device now. */
static unsigned int fill_step(struct filler *f, size_t page)
{
	char *addr = (char *)filler_page(f, page);

	race_device(f->fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, FILL_STEP,
		    f->buffer);
	return count_in_device(f->fd, addr, FILL_STEP);
}

/* From holes; those that find no room stay holes. */
static size_t fill_device(struct filler *f)
{
	unsigned int misses = 0;
	size_t found = 0;

	for (size_t i = 0; i + FILL_STEP <= FILL_PAGES && misses < 8 &&
	     !control->over; i += FILL_STEP) {
		unsigned int got = fill_step(f, i);

		found += got;
		misses = got == FILL_STEP ? 0 : misses + 1;
	}
	return found;
}

static void mark_pages(struct filler *f, size_t pages)
{
	for (size_t i = 0; i < pages; i += MARK_STEP)
		filler_page(f, i)[PAGE_WORDS - 1] = race_mix(f->marks + i);
}

static void check_marks(struct filler *f, size_t pages)
{
	for (size_t i = 0; i < pages; i += MARK_STEP / 2) {
		uint32_t value = filler_page(f, i)[PAGE_WORDS - 1];
		uint32_t mark = i % MARK_STEP ? 0 : race_mix(f->marks + i);

		if (value != mark)
			complain(WORDS, "full device, page %zu: %#x, not %#x\n",
				 i, value, mark);
		control->words++;
	}
}

/* Some pages go, others take their place. */
static void replace_pages(struct filler *f, size_t pages)
{
	for (int i = 0; i < 16 && !control->over; i++) {
		size_t page = race_below(&f->random, FILL_PAGES - FILL_STEP);

		page -= page % FILL_STEP;
		if (page < pages)
			continue;
		madvise(filler_page(f, page), FILL_STEP * PAGE_SIZE,
			MADV_DONTNEED);
		race_pause_ms(20);
		fill_step(f, page);
	}
}

static void fill_once(struct filler *f)
{
	size_t size = FILL_PAGES * PAGE_SIZE, full;

	f->area = memory(size, PROT_READ | PROT_WRITE);
	madvise(f->area, size, MADV_NOHUGEPAGE);
	full = fill_device(f);
	if (full + FILL_PAGES / 16 > FILL_PAGES)
		control->filled++;
	mark_pages(f, FILL_STEP * 16);
	replace_pages(f, FILL_STEP * 16);
	check_marks(f, FILL_STEP * 16);
	munmap(f->area, size);
}

static void filler_process(void)
{
	struct filler f = {
		.random = race_mix(options.seed + 77),
		.marks = race_mix(options.seed + 78),
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(MEMCG "/fill/cgroup.procs");
	f.fd = race_open_device(2);
	f.buffer = memory(FILL_STEP * PAGE_SIZE, PROT_READ | PROT_WRITE);
	while (!control->over) {
		fill_once(&f);
		for (int i = 0; i < 40 && !control->over; i++)
			race_pause_ms(50);
	}
	_exit(KSFT_PASS);
}

/* The meddler */

struct meddler {
	uint64_t random;
	bool our_swap;
};

#define THP	"/sys/kernel/mm/transparent_hugepage/"
#define KSM	"/sys/kernel/mm/ksm/"
#define DEBUG	"/sys/kernel/debug/"

#define PICK(m, array)	(array)[race_below(&(m)->random, ARRAY_SIZE(array))]

static void meddle_thp(struct meddler *m)
{
	static const char *const modes[] = { "always", "always", "madvise",
					     "never" };
	static const char *const defrag[] = { "always", "defer", "madvise" };
	static const char *const shmem[] = { "always", "within_size", "never",
					     "advise" };

	race_write_file(THP "enabled", PICK(m, modes));
	race_write_file(THP "defrag", PICK(m, defrag));
	race_write_file(THP "shmem_enabled", PICK(m, shmem));
}

static void meddle_mthp(struct meddler *m)
{
	static const char *const modes[] = { "always", "inherit", "never" };
	static const unsigned int sizes[] = { 16, 32, 64, 256, 1024, 2048 };
	char path[96];

	snprintf(path, sizeof(path), THP "hugepages-%ukB/enabled",
		 PICK(m, sizes));
	race_write_file(path, PICK(m, modes));
}

static void meddle_split(struct meddler *m)
{
	race_write_file(DEBUG "split_huge_pages", "1");
}

static void meddle_ksm(struct meddler *m)
{
	static const char *const runs[] = { "1", "1", "1", "0", "2" };

	race_write_file(KSM "sleep_millisecs", "5");
	race_write_file(KSM "pages_to_scan", "1000");
	race_write_file(KSM "run", PICK(m, runs));
}

static void meddle_compact(struct meddler *m)
{
	race_write_file("/proc/sys/vm/compact_memory", "1");
}

static void meddle_caches(struct meddler *m)
{
	static const char *const kinds[] = { "1", "2", "3" };

	race_write_file("/proc/sys/vm/drop_caches", PICK(m, kinds));
}

static void meddle_limit(struct meddler *m)
{
	static const char *const limits[] = { "max", "max", "64M", "40M",
					      "28M", "20M" };

	race_write_file(MEMCG "/work/memory.high", PICK(m, limits));
	race_write_file(MEMCG "/work/memory.max", PICK(m, limits));
}

static void meddle_reclaim(struct meddler *m)
{
	race_write_file(MEMCG "/work/memory.reclaim", "4M");
}

/* All threads that have make-it-fail are hit, for a moment. */
static void meddle_inject(struct meddler *m)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	static const char *const rates[] = { "1", "5", "20" };
	const char *kind = PICK(m, kinds);
	char path[96];

	if (!can_inject)
		return;
	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	control->injections++;
	race_write_file(path, PICK(m, rates));
	race_pause_ms(20 + race_below(&m->random, 300));
	race_write_file(path, "0");
	/* what has failed is done with, or looks again */
	race_pause_ms(5);
	control->injections_over++;
}

static void meddle_swap(struct meddler *m)
{
	if (!m->our_swap)
		return;
	swapoff(RACE_SWAP_DEVICE);
	race_pause_ms(race_below(&m->random, 100));
	swapon(RACE_SWAP_DEVICE, 0);
}

static void meddle_unplug(struct meddler *m)
{
	unsigned int nr = race_below(&m->random, DEVICES);
	int fd;

	if (!own_driver || !have_device[nr])
		return;
	fd = race_open_device(nr);
	if (fd < 0)
		return;
	race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1, NULL);
	close(fd);
}

static const struct meddle {
	const char *name;
	void (*run)(struct meddler *m);
	unsigned int weight;
} meddles[] = {
	{ "THP setting", meddle_thp, 4 },
	{ "mTHP setting", meddle_mthp, 4 },
	{ "split of huge pages", meddle_split, 1 },
	{ "KSM setting", meddle_ksm, 3 },
	{ "compaction", meddle_compact, 3 },
	{ "drop_caches", meddle_caches, 1 },
	{ "memcg limit", meddle_limit, 4 },
	{ "memcg reclaim", meddle_reclaim, 3 },
	{ "injection", meddle_inject, 4 },
	{ "swapoff", meddle_swap, 1 },
	{ "unplug", meddle_unplug, 2 },
};

static void meddle_once(struct meddler *m)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(meddles); i++)
		sum += meddles[i].weight;
	at = race_below(&m->random, sum);
	for (i = 0; at >= meddles[i].weight; i++)
		at -= meddles[i].weight;
	if (!is_wanted(meddles[i].name))
		return;
	meddles[i].run(m);
	control->meddled[i]++;
}

static void meddler_process(bool our_swap)
{
	struct meddler m = {
		.random = race_mix(options.seed + 99),
		.our_swap = our_swap,
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!control->over) {
		meddle_once(&m);
		race_pause_ms(10 + race_below(&m.random, 150));
	}
	_exit(KSFT_PASS);
}

/* Main */

/* In KiB, as /proc/meminfo has it. */
static const char *const usage_keys[] = {
	"MemFree", "Cached", "Buffers", "AnonPages", "Shmem", "Unevictable",
	"SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "Percpu",
	"VmallocUsed",
};

struct usage {
	long kib[ARRAY_SIZE(usage_keys)];
};

struct guard {
	uint64_t random;
	pid_t meddler, filler;
	time_t start;
	bool our_swap;
	unsigned long progress[MAX_SLOTS];
	time_t moved[MAX_SLOTS];
	pid_t stopped[MAX_SLOTS];
	long oom_kills;
	struct usage before;
};

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

/* Between processes, and whose owner may be killed. */
static void set_up_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(lock, &attr);
}

static void set_up_blocks(struct block *blocks, uint8_t leaves)
{
	memset(blocks, 0, NR_BLOCKS * sizeof(*blocks));
	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		set_up_lock(&blocks[b].contents);
		blocks[b].record.leaves[0] = leaves;
	}
}

static pid_t start_process(const char *what)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		complain(PROCESSES, "fork of a %s: %s\n", what,
			 strerror(errno));
	return pid;
}

/* The new one's incarnation first: whoever still looks at the old one sees. */
static void start_worker(struct guard *g, unsigned int i)
{
	struct slot *s = &control->slots[i];
	pid_t pid;

	s->ready = false;
	s->incarnation++;
	memset(s->mappings, 0, sizeof(s->mappings));
	for (unsigned int r = 0; r < NR_OWN; r++)
		set_up_blocks(s->own[r], hole_leaves(&regions[r]));
	g->moved[i] = now();
	g->stopped[i] = 0;
	pid = start_process("worker");
	if (!pid) {
		slot = s;
		worker_process();
	}
	s->pid = pid;
}

static void check_end(const char *who, int status)
{
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return;
	if (status && !(WIFEXITED(status) &&
			WEXITSTATUS(status) == KSFT_FAIL))
		complain(PROCESSES, "a %s ends with status %#x\n", who,
			 status);
}

static void bury(struct guard *g, pid_t pid, int status)
{
	if (pid == g->meddler)
		g->meddler = 0;
	if (pid == g->filler)
		g->filler = 0;
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid == pid)
			control->slots[i].pid = 0;
	check_end("process", status);
}

/* Also the children of killed workers. */
static void reap(struct guard *g)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		bury(g, pid, status);
}

static void fill_slots(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid <= 0)
			start_worker(g, i);
	if (!g->meddler) {
		g->meddler = start_process("meddler");
		if (!g->meddler)
			meddler_process(g->our_swap);
	}
	if (!g->filler && have_device[2] && is_wanted("filler")) {
		g->filler = start_process("filler");
		if (!g->filler)
			filler_process();
	}
}

static void stop_or_continue(struct guard *g)
{
	unsigned int i = race_below(&g->random, options.slots);

	if (g->stopped[i]) {
		kill(g->stopped[i], SIGCONT);
		g->stopped[i] = 0;
	} else if (control->slots[i].pid > 0) {
		g->stopped[i] = control->slots[i].pid;
		kill(g->stopped[i], SIGSTOP);
		control->stops++;
	}
}

static void continue_all(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++)
		if (g->stopped[i])
			kill(g->stopped[i], SIGCONT);
	memset(g->stopped, 0, sizeof(g->stopped));
}

static void kill_one(struct guard *g)
{
	unsigned int i = race_below(&g->random, options.slots);

	if (control->slots[i].pid <= 0)
		return;
	kill(control->slots[i].pid, SIGKILL);
	control->kills++;
}

/* One that only waits for a lock of somebody who is stopped gets on later. */
static void watch_progress(struct guard *g)
{
	for (unsigned int i = 0; i < options.slots; i++) {
		unsigned long progress = control->slots[i].progress;

		if (progress != g->progress[i]) {
			g->progress[i] = progress;
			g->moved[i] = now();
		}
		if (now() - g->moved[i] <= (time_t)options.patience)
			continue;
		complain(PROCESSES, "worker %u has not got on for %lu s\n", i,
			 options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
		race_write_file("/proc/sysrq-trigger", "l");
		g->moved[i] = now();
	}
}

static void guard_tick(struct guard *g)
{
	race_pause_ms(20);
	reap(g);
	fill_slots(g);
	if (!race_below(&g->random, 12) && is_wanted("stop"))
		stop_or_continue(g);
	if (!race_below(&g->random, 100) && is_wanted("kill"))
		kill_one(g);
	watch_progress(g);
}

static void guard_loop(struct guard *g)
{
	time_t said = g->start;

	while (now() < g->start + (time_t)options.seconds &&
	       !control->complaints) {
		guard_tick(g);
		if (now() < said + 60)
			continue;
		said = now();
		note("%ld s, %lu words right\n", (long)(said - g->start),
		     control->words);
	}
}

static bool some_live(struct guard *g)
{
	reap(g);
	for (unsigned int i = 0; i < options.slots; i++)
		if (control->slots[i].pid > 0)
			return true;
	return g->meddler > 0 || g->filler > 0;
}

static void end_processes(struct guard *g)
{
	control->over = true;
	continue_all(g);
	race_write_file(MEMCG "/work/memory.max", "max");
	race_write_file(MEMCG "/work/memory.high", "max");
	for (unsigned long i = 0; i < options.patience * 50; i++) {
		if (!some_live(g))
			break;
		race_pause_ms(20);
	}
	if (some_live(g)) {
		complain(PROCESSES, "no end after %lu s\n", options.patience);
		race_write_file("/proc/sysrq-trigger", "w");
	}
	race_write_file(MEMCG "/cgroup.kill", "1");
	for (int i = 0; i < 500 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
		race_pause_ms(20);
}

/* For a child that must end. Return: its status. */
static int wait_bounded(pid_t pid, const char *what)
{
	int status;

	for (unsigned long i = 0; i < options.patience * 50; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		race_pause_ms(20);
	}
	race_write_file("/proc/sysrq-trigger", "w");
	note("%s: no end after %lu s\n", what, options.patience);
	kill(pid, SIGKILL);
	return -1;
}

static void look_at_shared(void)
{
	pid_t pid = start_process("last look");

	if (!pid)
		last_look();
	if (wait_bounded(pid, "the last look"))
		complain(PROCESSES, "the last look fails\n");
}

/* Only when no page is in use any more does the driver come back from this. */
static void take_memory_away(unsigned int nr)
{
	pid_t pid = start_process("release");

	if (!pid) {
		int fd = race_open_device(nr);

		_exit(fd < 0 || race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1,
					    NULL));
	}
	if (wait_bounded(pid, "pages of a device are in use still"))
		complain(DEVICE_PAGES, "device %u keeps pages\n", nr);
}

static void release_devices(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		if (have_device[i])
			take_memory_away(i);
}

/* The cgroup */

static const char *set_up_cgroup(void)
{
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/cgroup.subtree_control", "+memory"))
		return "no memory controller";
	if ((mkdir(MEMCG "/work", 0755) && errno != EEXIST) ||
	    (mkdir(MEMCG "/fill", 0755) && errno != EEXIST))
		return "no cgroups of its own";
	return NULL;
}

/* What a file system keeps of its own, and slab that outlives processes. */
#define CHARGE_FILE	(64L << 10)
#define CHARGE_REST	(2L << 20)

static void check_stat(const char *group, const char *key, long most)
{
	char path[96];
	long value;

	snprintf(path, sizeof(path), MEMCG "%s/memory.stat", group);
	for (int tries = 0; tries < 50; tries++) {
		value = race_read_number(path, key);
		if (value <= most)
			return;
		race_pause_ms(100);
	}
	complain(CHARGES, "memory.stat of %s: %s is %ld\n", group, key, value);
}

static void set_group(const char *group, const char *file, const char *text)
{
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/%s", group, file);
	race_write_file(path, text);
}

/* Charges that the CPUs keep in stock are given up at a limit that is lower. */
static void check_group(const char *group)
{
	char path[96];
	long rest;

	set_group(group, "memory.reclaim", "64M");
	set_group(group, "memory.max", "1M");
	check_stat(group, "anon", 0);
	check_stat(group, "shmem", 0);
	check_stat(group, "file_mapped", 0);
	check_stat(group, "unevictable", 0);
	check_stat(group, "file", CHARGE_FILE);
	snprintf(path, sizeof(path), MEMCG "%s/memory.current", group);
	rest = race_read_number(path, NULL);
	note("%s: %ld bytes charged at the end\n", group, rest);
	if (rest < 0 || rest > CHARGE_REST)
		complain(CHARGES, "%ld bytes are still charged to %s\n", rest,
			 group);
	snprintf(path, sizeof(path), MEMCG "%s", group);
	if (rmdir(path))
		complain(CHARGES, "removal of %s: %s\n", path,
			 strerror(errno));
}

/* Memory and counters of the system */

static struct usage usage_now(void)
{
	struct usage usage;

	for (int i = 0; i < 3; i++) {
		race_write_file("/proc/sys/vm/drop_caches", "3");
		race_pause_ms(100);
	}
	for (size_t i = 0; i < ARRAY_SIZE(usage_keys); i++)
		usage.kib[i] = race_read_number("/proc/meminfo", usage_keys[i]);
	return usage;
}

/* In KiB; slabs with holes, and page tables of the kernel. */
#define FREE_REST	(24L << 10)

static void check_free(const struct guard *g)
{
	struct usage usage = usage_now();
	long gone = g->before.kib[0] - usage.kib[0];

	note("free memory: %ld KiB before, %ld after\n", g->before.kib[0],
	     usage.kib[0]);
	if (gone <= FREE_REST)
		return;
	complain(COUNTERS, "%ld KiB of memory are gone\n", gone);
	for (size_t i = 1; i < ARRAY_SIZE(usage_keys); i++)
		note("%s: %ld KiB before, %ld after\n", usage_keys[i],
		     g->before.kib[i], usage.kib[i]);
}

/* Counters of each CPU are added up now and then. */
static bool settles_at(const char *key, long wanted)
{
	for (int i = 0; i < 50; i++) {
		race_write_file("/proc/sys/vm/stat_refresh", "1");
		if (race_read_number("/proc/vmstat", key) == wanted)
			return true;
		race_pause_ms(100);
	}
	return false;
}

static void check_counters(void)
{
	static const char *const zero[] = {
		"nr_isolated_anon", "nr_isolated_file", "nr_mlock",
	};
	const char *released = "nr_foll_pin_released";

	for (size_t i = 0; i < ARRAY_SIZE(zero); i++)
		if (!settles_at(zero[i], 0))
			complain(COUNTERS, "%s is %ld\n", zero[i],
				 race_read_number("/proc/vmstat", zero[i]));
	if (!settles_at(released, race_read_number("/proc/vmstat",
						   "nr_foll_pin_acquired")))
		complain(COUNTERS, "pins: %ld released of %ld\n",
			 race_read_number("/proc/vmstat", released),
			 race_read_number("/proc/vmstat",
					  "nr_foll_pin_acquired"));
}

/* Once it is off, the system has let go of all that was swapped out. */
static void check_swap(const struct guard *g)
{
	if (!g->our_swap)
		return;
	race_swap_end(true);
	if (race_swap_exists())
		complain(COUNTERS, "swap cannot be taken away: %s\n",
			 strerror(errno));
}

/* Setting up */

static void make_region(unsigned int nr)
{
	struct region *region = &regions[nr];

	region->nr = nr;
	region->fd = -1;
	region->blocks = control->shared[nr];
	region->slot = &control->slots[0];
	set_up_blocks(region->blocks, RACE_LEAVES_ZERO);
}

/* With a gap after each, and room for a huge page. */
static void reserve_addresses(void)
{
	size_t size = (NR_REGIONS + 1) * REGION_STRIDE;
	char *addr = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		ksft_exit_fail_msg("no address space\n");
	addr += -(uintptr_t)addr & (REGION_SIZE - 1);
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		make_region(i);
		regions[i].addr = addr + i * REGION_STRIDE;
	}
}

static int make_file(const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", options.directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, REGION_SIZE))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	unlink(path);
	return fd;
}

static void write_other(const struct region *region)
{
	static uint32_t words[BLOCK_WORDS];

	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		struct span s = { (struct region *)region, b, 1 };

		fill_other(words, &s);
		if (pwrite(region->fd, words, BLOCK_SIZE, b * BLOCK_SIZE) !=
		    (ssize_t)BLOCK_SIZE)
			ksft_exit_fail_msg("a file cannot be written\n");
	}
}

static void make_regions(void)
{
	reserve_addresses();
	regions[OWN_FILE].fd = make_file("hmm-torture.private");
	write_other(&regions[OWN_FILE]);
	regions[SHARED_FILE].fd = make_file("hmm-torture.shared");
	regions[SHARED_SHMEM].fd = memfd_create("hmm-torture", MFD_CLOEXEC);
	if (regions[SHARED_SHMEM].fd < 0 ||
	    ftruncate(regions[SHARED_SHMEM].fd, REGION_SIZE))
		ksft_exit_fail_msg("no shmem: %s\n", strerror(errno));
	if (!map_memory(&regions[SHARED_ANON], regions[SHARED_ANON].addr,
			REGION_SIZE, MAP_FIXED))
		ksft_exit_fail_msg("no shared memory\n");
}

static void drop_regions(void)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		if (regions[i].fd >= 0)
			close(regions[i].fd);
	munmap(regions[0].addr, NR_REGIONS * REGION_STRIDE);
	/* and with it the pins of who was killed */
	if (gup_fd >= 0)
		close(gup_fd);
}

static void find_devices(void)
{
	int fd;

	for (unsigned int i = 0; i < DEVICES; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/dev/hmm_dmirror%u", i);
		have_device[i] = !access(path, R_OK | W_OK);
	}
	if (!have_device[0] || !have_device[1])
		ksft_exit_skip("no /dev/hmm_dmirror*: load test_hmm\n");
	fd = race_open_device(0);
	own_driver = fd >= 0 && !race_device(fd, HMM_DMIRROR_FLAGS, NULL,
					     FAIL_NEXT_ALLOCATION, NULL);
	close(fd);
}

/* Only threads that say so, also those that could wait for memory. */
static void set_up_injection(void)
{
	static const char *const settings[][2] = {
		{ "verbose", "0" }, { "task-filter", "Y" }, { "times", "-1" },
		{ "probability", "0" }, { "ignore-gfp-wait", "N" },
		{ "ignore-gfp-highmem", "N" }, { "min-order", "0" },
	};
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	char path[96];

	can_inject = is_wanted("injection") &&
		     !access("/proc/self/fail-nth", W_OK) &&
		     !access(DEBUG "failslab/probability", W_OK);
	for (size_t k = 0; can_inject && k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
			snprintf(path, sizeof(path), DEBUG "%s/%s", kinds[k],
				 settings[i][0]);
			race_write_file(path, settings[i][1]);
		}
}

static void end_injection(void)
{
	if (!can_inject)
		return;
	race_write_file(DEBUG "failslab/probability", "0");
	race_write_file(DEBUG "fail_page_alloc/probability", "0");
}

static void hurry_khugepaged(void)
{
	race_write_file(THP "khugepaged/scan_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/alloc_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/pages_to_scan", "4096");
}

/* Results */

static void report_ops(void)
{
	char line[256] = "";

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (ops[i].off)
			continue;
		snprintf(line + strlen(line), sizeof(line) - strlen(line),
			 "%s %lu/%lu, ", ops[i].name, control->done[i],
			 control->tried[i]);
		if (strlen(line) > 160 || i == ARRAY_SIZE(ops) - 1) {
			note("%s\n", line);
			*line = 0;
		}
		if (!control->done[i] && control->tried[i] >= 100 &&
		    !ops[i].may_fail)
			complain(EFFECT, "not once of %lu times: %s\n",
				 control->tried[i], ops[i].name);
	}
}

static void report_meddles(void)
{
	char line[400] = "";

	for (size_t i = 0; i < ARRAY_SIZE(meddles); i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line),
			 "%s %lu, ", meddles[i].name, control->meddled[i]);
	note("%s\n", line);
}

static void report(const struct guard *g)
{
	report_ops();
	report_meddles();
	note("%lu killed, %ld by the OOM killer, %lu stopped, device filled %lu times\n",
	     control->kills, g->oom_kills, control->stops, control->filled);
	note("%ld s, %lu words right, %lu pages not judged, %lu errors with a cause\n",
	     (long)(now() - g->start), control->words, control->unjudged,
	     control->excused);
}

static void check_what_is_left(struct guard *g)
{
	race_write_file(KSM "run", "2");
	drop_regions();
	release_devices();
	check_group("/work");
	check_group("/fill");
	rmdir(MEMCG);
	check_swap(g);
	check_counters();
	check_free(g);
}

static void torture(struct guard *g)
{
	const char *why = set_up_cgroup();

	if (!why)
		why = race_swap_begin(&g->our_swap);
	if (why)
		ksft_exit_skip("%s\n", why);
	release_devices();
	g->before = usage_now();
	set_up_lock(&control->gup_lock);
	gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR | O_CLOEXEC);
	make_regions();
	set_up_injection();
	hurry_khugepaged();
	g->start = now();
	guard_loop(g);
	end_processes(g);
	end_injection();
	if (!control->wrong[PROCESSES])
		look_at_shared();
	g->oom_kills = race_read_number(MEMCG "/work/memory.events",
					"oom_kill");
	check_what_is_left(g);
	report(g);
}

#define USAGE	"usage: %s [-s seed] [-t seconds] [-p processes] [-j threads] " \
		"[-w seconds of patience] [-d directory for files] "		\
		"[-o only,these] [-x without,these]\n"

static void parse(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "s:t:p:j:w:d:o:x:")) != -1) {
		if (opt == 's')
			options.seed = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			options.seconds = strtoul(optarg, NULL, 0);
		else if (opt == 'p')
			options.slots = strtoul(optarg, NULL, 0);
		else if (opt == 'j')
			options.threads = strtoul(optarg, NULL, 0);
		else if (opt == 'w')
			options.patience = strtoul(optarg, NULL, 0);
		else if (opt == 'd')
			options.directory = optarg;
		else if (opt == 'o')
			options.only = optarg;
		else if (opt == 'x')
			options.without = optarg;
		else
			ksft_exit_fail_msg(USAGE, argv[0]);
	}
	if (!options.slots || options.slots > MAX_SLOTS || !options.threads ||
	    options.threads > MAX_THREADS)
		ksft_exit_fail_msg(USAGE, argv[0]);
}

int main(int argc, char **argv)
{
	static struct guard guard;

	ksft_print_header();
	options.seed = time(NULL);
	parse(argc, argv);
	if (sysconf(_SC_PAGESIZE) != (long)PAGE_SIZE)
		ksft_exit_skip("pages of 4 KiB are needed\n");
	find_devices();
	choose_ops();
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (control == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	ksft_print_msg("seed %llu, %lu s, %u processes of %u threads, %s driver\n",
		       (unsigned long long)options.seed, options.seconds,
		       options.slots, options.threads,
		       own_driver ? "own" : "the base's");
	ksft_set_plan(NR_RESULTS);
	guard.random = race_mix(options.seed);
	torture(&guard);
	for (unsigned int i = 0; i < NR_RESULTS; i++)
		ksft_test_result(!control->wrong[i], "%s\n", results[i]);
	ksft_finished();
}
