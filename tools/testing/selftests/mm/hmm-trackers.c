// SPDX-License-Identifier: GPL-2.0-only
/*
 * Trackers of writes see what a device has written.
 *
 * A table: each tracker, times each kind of page-table entry, times each event
 * that replaces or changes entries. One test goes like this:
 *
 *	the tracker starts; the page is at its place, or is brought there
 *	the device writes the pages of group 0
 *	the event happens to all pages
 *	the device writes group 2, the CPU group 3; nobody writes group 1
 *	all pages are brought back to system memory
 *
 * After each step, the tracker must report the pages that were written, and no
 * others, and the device must not be told that it may write to a page that is
 * reported as not written.
 *
 * Each test is a process of its own, since clear_refs affects a whole process.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "hmm_test_common.h"
#include "../kselftest.h"

#define GROUP		2		/* pages of a group */
#define GROUPS		4
#define PAGES		(GROUPS * GROUP)
#define ALL		((1U << PAGES) - 1)
#define RACE_PAGES	256
#define RACE_ROUNDS	15
#define BUSY_SECONDS	5
#define NR_BUSY		3		/* trackers that need no handler */

/* Status of a process that ran a test */
enum { PASS, FAIL, SKIP };

/*
 * HUGE is a huge page that the tracker has found whole. FROM_HUGE is the same,
 * whose pages have gone to the device since. SHARED is memory of a file.
 */
enum place {
	PRESENT,
	HUGE,
	SHARED,
	PRIVATE,
	FROM_HUGE,
	COHERENT,
	EXCLUSIVE,
	NR_PLACES,
};

enum order { TRACK_FIRST, PLACE_FIRST, NR_ORDERS };

static const char *const place_names[] = {
	"present", "present in a huge page", "shared", "private",
	"private from a huge page", "coherent", "exclusive",
};

static const char *const order_names[] = {
	"tracked before", "tracked there",
};

/**
 * struct cell - one test
 * @tracker: of writes
 * @place: where the pages are
 * @device: that has them there, and writes
 * @area: the pages
 * @uffd: the userfaultfd, -1 if none is needed
 * @handler: reads the events of @uffd, and resolves its faults
 * @resolved: how many faults it has resolved
 * @evicting: the device is giving up its memory
 * @over: threads shall end
 * @child: of a fork
 */
struct cell {
	const struct tracker *tracker;
	enum place place;
	struct mirror device;
	struct area area;
	int uffd;
	pthread_t handler;
	atomic_uint resolved;
	atomic_bool evicting;
	atomic_bool over;
	struct peer child;
};

/**
 * struct tracker - a way to learn which pages were written
 * @name: for messages
 * @uffd: features of the userfaultfd that it needs
 * @start: forget what was written so far
 * @written: Return: a bit for each page that was written since
 * @sync: somebody has to resolve each write
 */
struct tracker {
	const char *name;
	uint64_t uffd;
	void (*start)(struct cell *cell);
	unsigned int (*written)(struct cell *cell);
	bool sync;
};

/* What an event does to the pages, for a tracker */
enum effect { NOTHING, WRITES, FORGETS, IMPOSSIBLE };

/**
 * struct event - something that happens to the pages
 * @name: for messages
 * @happen: the event
 * @soft_dirty: its effect for soft-dirty
 * @async: the same for userfaultfd that resolves by itself, and PAGEMAP_SCAN
 * @sync: the same for userfaultfd with a handler
 * @end: after the last check, or NULL
 * @races: it can happen during eviction, too
 * @anonymous: it happens to anonymous memory only, or shared memory has no marks
 *	after it
 */
struct event {
	const char *name;
	void (*happen)(struct cell *cell);
	enum effect soft_dirty;
	enum effect async;
	enum effect sync;
	void (*end)(struct cell *cell);
	bool races;
	bool anonymous;
};

/* With these, marks survive mremap(), and fork() in the child. */
#define UFFD_FEATURES	(UFFD_FEATURE_WP_UNPOPULATED |			\
			 UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP)

#define expect(cond, format, ...) do {					\
	if (!(cond)) {							\
		race_note("line %d: " format "\n", __LINE__,		\
			  ##__VA_ARGS__);				\
		exit(FAIL);						\
	}								\
} while (0)

/*
 * The trackers
 */

static unsigned int pages_with(struct cell *cell, uint64_t bit)
{
	unsigned int pages = 0;

	for (size_t i = 0; i < PAGES; i++)
		if (pagemap_of(getpid(), area_page(&cell->area, i)) & bit)
			pages |= 1U << i;
	return pages;
}

static void soft_dirty_start(struct cell *cell)
{
	expect(!race_write_file("/proc/self/clear_refs", "4"), "clear_refs");
}

static unsigned int soft_dirty_written(struct cell *cell)
{
	return pages_with(cell, PAGEMAP_SOFT_DIRTY);
}

static int protect(int uffd, const void *at, size_t pages, uint64_t mode)
{
	struct uffdio_writeprotect args = {
		.range = { .start = (uintptr_t)at, .len = pages * PAGE },
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &args) ? -errno : 0;
}

static void uffd_start(struct cell *cell)
{
	expect(!protect(cell->uffd, cell->area.at, cell->area.pages,
			UFFDIO_WRITEPROTECT_MODE_WP), "cannot protect");
}

static unsigned int uffd_written(struct cell *cell)
{
	return ALL & ~pages_with(cell, PAGEMAP_UFFD_WP);
}

/* Return: how many regions of pages were written, or -errno. */
static long scan(const struct area *area, uint64_t flags,
		 struct page_region *regions, size_t nr)
{
	struct pm_scan_arg args = {
		.size = sizeof(args),
		.flags = flags,
		.start = (uintptr_t)area->at,
		.end = (uintptr_t)area_page(area, area->pages),
		.vec = (uintptr_t)regions,
		.vec_len = nr,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY);
	long ret = ioctl(fd, PAGEMAP_SCAN, &args);

	ret = ret < 0 ? -errno : ret;
	close(fd);
	return ret;
}

static void scan_start(struct cell *cell)
{
	struct page_region regions[PAGES];

	expect(scan(&cell->area, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		    regions, PAGES) >= 0, "cannot scan and protect");
}

static unsigned int scan_written(struct cell *cell)
{
	struct page_region regions[PAGES];
	long nr = scan(&cell->area, 0, regions, PAGES);
	unsigned int pages = 0;

	expect(nr >= 0, "cannot scan: %ld", nr);
	for (long i = 0; i < nr; i++)
		for (uint64_t at = regions[i].start; at < regions[i].end;
		     at += PAGE)
			pages |= 1U << (at - (uintptr_t)cell->area.at) / PAGE;
	return pages;
}

/* For areas of any size: how many pages the tracker reports */
static unsigned int count_written(struct cell *cell)
{
	static struct page_region regions[RACE_PAGES];
	unsigned int pages = 0;
	long nr;

	if (!cell->tracker->uffd)
		return pagemap_count(&cell->area, PAGEMAP_SOFT_DIRTY);
	nr = scan(&cell->area, 0, regions, RACE_PAGES);
	expect(nr >= 0, "cannot scan: %ld", nr);
	for (long i = 0; i < nr; i++)
		pages += (regions[i].end - regions[i].start) / PAGE;
	return pages;
}

static const struct tracker trackers[] = {
	{
		.name = "soft-dirty",
		.start = soft_dirty_start,
		.written = soft_dirty_written,
	}, {
		.name = "uffd-wp sync",
		.uffd = UFFD_FEATURES,
		.start = uffd_start,
		.written = uffd_written,
		.sync = true,
	}, {
		.name = "uffd-wp async",
		.uffd = UFFD_FEATURES | UFFD_FEATURE_WP_ASYNC,
		.start = uffd_start,
		.written = uffd_written,
	}, {
		.name = "PAGEMAP_SCAN",
		.uffd = UFFD_FEATURES | UFFD_FEATURE_WP_ASYNC,
		.start = scan_start,
		.written = scan_written,
	},
};

static int uffd_open(uint64_t features, const struct area *area)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register args = {
		.range = {
			.start = (uintptr_t)area->at,
			.len = area->pages * PAGE,
		},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &args))
		exit(SKIP);
	return uffd;
}

static void resolve(struct cell *cell, const struct uffd_msg *message)
{
	uintptr_t at = message->arg.pagefault.address & ~(PAGE - 1);

	expect(cell->tracker->sync, "a fault that is resolved by itself");
	expect(message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP,
	       "a fault that is no write to a protected page");
	cell->resolved++;
	expect(!protect(cell->uffd, (void *)at, 1, 0), "cannot unprotect");
}

/* fork() and mremap() wait until their events have been read. */
static void *handle_events(void *data)
{
	struct cell *cell = data;
	struct uffd_msg message;

	while (read(cell->uffd, &message, sizeof(message)) == sizeof(message))
		if (message.event == UFFD_EVENT_PAGEFAULT)
			resolve(cell, &message);
	return NULL;
}

static void track(struct cell *cell)
{
	if (cell->tracker->uffd) {
		cell->uffd = uffd_open(cell->tracker->uffd, &cell->area);
		expect(!pthread_create(&cell->handler, NULL, handle_events,
				       cell), "no thread");
	}
	cell->tracker->start(cell);
}

/*
 * What the events do
 */

static bool lives_on_device(const struct cell *cell)
{
	return cell->place == PRIVATE || cell->place == FROM_HUGE ||
	       cell->place == COHERENT;
}

static void go_to(struct cell *cell)
{
	if (lives_on_device(cell))
		expect(to_device(&cell->device, &cell->area) == PAGES,
		       "pages do not go to the device");
	if (cell->place == EXCLUSIVE)
		expect(!mirror_call(&cell->device, HMM_DMIRROR_EXCLUSIVE,
				    cell->area.at, PAGES, cell->area.buffer),
		       "no exclusive access");
}

static void happen_nothing(struct cell *cell)
{
}

/*
 * To the other side, and back if the pages were there. A page to which the
 * device has exclusive access may stay.
 */
static void happen_migration(struct cell *cell)
{
	struct area *area = &cell->area;

	if (lives_on_device(cell))
		expect(!to_system(&cell->device, area), "pages stay");
	else
		ask_to_device(&cell->device, area, 0, PAGES);
	if (cell->place == PRESENT || cell->place == HUGE)
		expect(held(&cell->device, area) == PAGES, "pages stay");
	if (cell->place != EXCLUSIVE)
		go_to(cell);
}

static void fail_to_move(struct cell *cell, size_t page)
{
	struct hmm_dmirror_cmd flags = { .npages = HMM_DMIRROR_FLAG_FAIL_ALLOC };
	long there = held_part(&cell->device, &cell->area, page, 1);

	expect(!ioctl(cell->device.fd, HMM_DMIRROR_FLAGS, &flags), "no flags");
	mirror_call_once(&cell->device, there ? HMM_DMIRROR_MIGRATE_TO_SYS :
						HMM_DMIRROR_MIGRATE_TO_DEV,
			 area_page(&cell->area, page), 1, cell->area.buffer);
	expect(held_part(&cell->device, &cell->area, page, 1) == there,
	       "page %zu has moved without memory", page);
	flags.npages = 0;
	expect(!ioctl(cell->device.fd, HMM_DMIRROR_FLAGS, &flags), "no flags");
}

static void happen_failed_migration(struct cell *cell)
{
	for (size_t i = 0; i < PAGES; i++)
		fail_to_move(cell, i);
}

/* The device gives up all its memory, without a look at page tables. */
static void happen_eviction(struct cell *cell)
{
	struct hmm_dmirror_cmd cmd = { .npages = 1 };

	expect(!ioctl(cell->device.fd, HMM_DMIRROR_RELEASE, &cmd),
	       "cannot evict: %s", strerror(errno));
	expect(!held(&cell->device, &cell->area), "pages stay");
}

static void happen_cpu_reads(struct cell *cell)
{
	for (size_t i = 0; i < PAGES; i++)
		cpu_try(area_page(&cell->area, i), CPU_READ);
}

static void happen_mprotect(struct cell *cell)
{
	size_t size = cell->area.pages * PAGE;

	expect(!mprotect(cell->area.at, size, PROT_READ), "mprotect");
	expect(!mprotect(cell->area.at, size, PROT_READ | PROT_WRITE),
	       "mprotect back");
}

/* The child has the marks of its parent, but fork() copies no shared memory. */
static void child_lives(struct cell *cell, unsigned int before)
{
	unsigned int written = count_written(cell);
	bool ok = written == before || cell->place == SHARED;

	if (!ok)
		race_note("child: %u pages are written, %u reported\n", before,
			  written);
	peer_tell(&cell->child);
	peer_hear(&cell->child);
	_exit(ok ? PASS : FAIL);
}

static void happen_fork(struct cell *cell)
{
	unsigned int before = count_written(cell);

	expect(!peer_fork(&cell->child), "fork");
	if (!cell->child.pid)
		child_lives(cell, before);
	expect(peer_hear(&cell->child), "the child has died");
}

static void end_fork(struct cell *cell)
{
	expect(!peer_end(&cell->child), "the child sees other marks");
}

static void happen_fork_and_exit(struct cell *cell)
{
	happen_fork(cell);
	end_fork(cell);
}

static void happen_mremap(struct cell *cell)
{
	size_t size = cell->area.pages * PAGE;
	void *to = area_reserve(cell->area.pages);

	to = mremap(cell->area.at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		    to);
	expect(to != MAP_FAILED, "mremap: %s", strerror(errno));
	cell->area.at = to;
}

/* Start a second time: earlier writes no longer count. */
static void happen_restart(struct cell *cell)
{
	cell->tracker->start(cell);
}

/* A tracker that does not concern the one that is tested */
static void happen_other_tracker(struct cell *cell)
{
	if (cell->tracker->uffd) {
		soft_dirty_start(cell);
		return;
	}
	cell->uffd = uffd_open(UFFD_FEATURE_WP_UNPOPULATED, &cell->area);
	uffd_start(cell);
	expect(!protect(cell->uffd, cell->area.at, PAGES, 0), "unprotect");
}

/* For userfaultfd: nothing is tracked from then on. */
static void happen_unprotect(struct cell *cell)
{
	expect(!protect(cell->uffd, cell->area.at, cell->area.pages, 0),
	       "unprotect");
}

static void happen_exclusive(struct cell *cell)
{
	expect(!mirror_call(&cell->device, HMM_DMIRROR_EXCLUSIVE,
			    cell->area.at, PAGES, cell->area.buffer),
	       "no exclusive access");
}

/* Another device takes it over. */
static void happen_hand_over(struct cell *cell)
{
	struct mirror other;

	happen_exclusive(cell);
	if (mirror_open(&other, 1))
		exit(SKIP);
	expect(!mirror_call(&other, HMM_DMIRROR_EXCLUSIVE, cell->area.at,
			    PAGES, cell->area.buffer), "no hand-over");
}

/* The same contents, written by a device that has no page of its own here. */
static void happen_other_writes(struct cell *cell)
{
	struct area *area = &cell->area;
	struct mirror other;

	if (mirror_open(&other, 1))
		exit(SKIP);
	expect(!mirror_call(&cell->device, HMM_DMIRROR_READ, area->at, PAGES,
			    area->buffer), "device read");
	expect(!mirror_call(&other, cell->tracker->sync ?
			    HMM_DMIRROR_WRITE_UNLOCKED : HMM_DMIRROR_WRITE,
			    area->at, PAGES, area->buffer),
	       "write of the other device");
	mirror_close(&other);
}

static void happen_pageout(struct cell *cell)
{
	madvise(cell->area.at, PAGES * PAGE, MADV_PAGEOUT);
}

static const struct event events[] = {
	{ .name = "nothing", .happen = happen_nothing },
	{ .name = "migration", .happen = happen_migration, .anonymous = true },
	{ .name = "failed migration", .happen = happen_failed_migration },
	{ .name = "eviction", .happen = happen_eviction },
	{ .name = "CPU read", .happen = happen_cpu_reads },
	{ .name = "mprotect", .happen = happen_mprotect, .races = true },
	{
		.name = "fork", .happen = happen_fork, .end = end_fork,
		.races = true,
	},
	{ .name = "fork and exit", .happen = happen_fork_and_exit },
	{
		.name = "mremap", .happen = happen_mremap,
		.soft_dirty = WRITES, .races = true,
	}, {
		.name = "restart", .happen = happen_restart,
		.soft_dirty = FORGETS, .async = FORGETS, .sync = FORGETS,
		.races = true,
	},
	{ .name = "other tracker", .happen = happen_other_tracker },
	{
		.name = "unprotect", .happen = happen_unprotect,
		.soft_dirty = IMPOSSIBLE, .async = WRITES, .sync = WRITES,
		.races = true,
	}, {
		/* Nobody waits for a handler: -EFAULT with uffd-wp sync */
		.name = "exclusive access", .happen = happen_exclusive,
		.soft_dirty = WRITES, .async = WRITES, .sync = IMPOSSIBLE,
		.anonymous = true,
	}, {
		.name = "hand-over", .happen = happen_hand_over,
		.soft_dirty = WRITES, .async = WRITES, .sync = IMPOSSIBLE,
		.anonymous = true,
	},
	{
		.name = "writes of another device",
		.happen = happen_other_writes,
		.soft_dirty = WRITES, .async = WRITES, .sync = WRITES,
	},
	{ .name = "pageout", .happen = happen_pageout, .anonymous = true },
};

static enum effect effect_of(const struct event *event,
			     const struct tracker *tracker)
{
	if (!tracker->uffd)
		return event->soft_dirty;
	return tracker->sync ? event->sync : event->async;
}

/*
 * One test
 */

static unsigned int group_pages(unsigned int group)
{
	return ((1U << GROUP) - 1) << group * GROUP;
}

/* The device must fault before it writes to a page that is not written. */
static void check_write_access(struct cell *cell, unsigned int written,
			       const char *when)
{
	for (size_t i = 0; i < PAGES; i++) {
		int place;

		if (written & 1U << i)
			continue;
		place = mirror_place(&cell->device, area_page(&cell->area, i));
		expect(place >= 0 && (place == HMM_DMIRROR_PROT_ERROR ||
				      !(place & HMM_DMIRROR_PROT_WRITE)),
		       "%s: the device may write to page %zu: %#x", when, i,
		       place);
	}
}

static void check(struct cell *cell, unsigned int written, const char *when)
{
	unsigned int found = cell->tracker->written(cell);

	expect(found == written, "%s: written %#x, reported %#x", when, written,
	       found);
	check_write_access(cell, written, when);
}

static void device_writes(struct cell *cell, unsigned int group,
			  uint64_t contents)
{
	struct area *area = &cell->area;
	unsigned long request = cell->tracker->sync ?
				HMM_DMIRROR_WRITE_UNLOCKED : HMM_DMIRROR_WRITE;
	int ret;

	contents_fill(area->buffer, group * GROUP, GROUP, contents);
	ret = mirror_call(&cell->device, request,
			  area_page(area, group * GROUP), GROUP, area->buffer);
	expect(!ret, "device write: %d", ret);
}

static void cpu_writes(struct cell *cell, unsigned int group, uint64_t contents)
{
	area_fill_part(&cell->area, group * GROUP, GROUP, contents);
}

static void check_contents(struct cell *cell)
{
	static const uint64_t contents[GROUPS] = { 2, 1, 3, 4 };

	for (unsigned int i = 0; i < GROUPS; i++) {
		expect(!device_wrong_part(&cell->device, &cell->area,
					  i * GROUP, GROUP, contents[i]),
		       "the device reads something else in group %u", i);
		expect(!cpu_wrong_part(&cell->area, i * GROUP, GROUP,
				       contents[i]),
		       "the CPU reads something else in group %u", i);
	}
}

static void map_memory(struct cell *cell)
{
	bool huge = cell->place == HUGE || cell->place == FROM_HUGE;
	size_t pages = huge ? HUGE_PAGES : PAGES;
	int ret;

	if (cell->place == SHARED)
		ret = area_map_file(&cell->area, pages, PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1);
	else
		ret = area_map(&cell->area, pages);
	expect(!ret, "no memory");
	madvise(cell->area.at, pages * PAGE,
		huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void set_up(struct cell *cell, enum order order)
{
	map_memory(cell);
	area_fill(&cell->area, 1);
	if (order == TRACK_FIRST)
		track(cell);
	cell->area.pages = PAGES;
	go_to(cell);
	if (order == PLACE_FIRST)
		track(cell);
}

static void run_cell(struct cell *cell, const struct event *event,
		     enum order order)
{
	enum effect effect = effect_of(event, cell->tracker);
	unsigned int written = 0;

	set_up(cell, order);
	check(cell, written, "tracked");
	device_writes(cell, 0, 2);
	written |= group_pages(0);
	if (lives_on_device(cell) && !cell->tracker->sync)
		expect(held(&cell->device, &cell->area) == PAGES,
		       "the device has lost the pages that it has written");
	check(cell, written, "written by the device");
	event->happen(cell);
	if (effect != NOTHING)
		written = effect == WRITES ? ALL : 0;
	check(cell, written, "after the event");
	device_writes(cell, 2, 3);
	cpu_writes(cell, 3, 4);
	written |= group_pages(2) | group_pages(3);
	check(cell, written, "written after the event");
	to_system(&cell->device, &cell->area);
	check(cell, written, "back in system memory");
	check_contents(cell);
	check(cell, written, "at the end");
	if (cell->tracker->sync && effect == NOTHING)
		expect(cell->resolved >= 3 * GROUP, "%u faults were resolved",
		       cell->resolved);
	if (event->end)
		event->end(cell);
}

/**
 * struct test - a place in the table
 * @tracker: of writes
 * @place: where the pages are
 * @order: whether the tracker starts before they are there
 * @event: what happens to them
 */
struct test {
	const struct tracker *tracker;
	const struct event *event;
	enum place place;
	enum order order;
};

static bool test_exists(const struct test *test)
{
	/* Exclusive access is a write: it comes before the tracker starts. */
	if (test->place == EXCLUSIVE && test->order == TRACK_FIRST)
		return false;
	if (test->place == FROM_HUGE && test->order == PLACE_FIRST)
		return false;
	/* Soft-dirty is that of the whole huge page. */
	if (test->place == HUGE &&
	    (test->order == PLACE_FIRST || !test->tracker->uffd))
		return false;
	if (test->place == SHARED && test->event->anonymous)
		return false;
	return effect_of(test->event, test->tracker) != IMPOSSIBLE;
}

static void run_in_child(const struct test *test)
{
	struct cell cell = {
		.tracker = test->tracker,
		.place = test->place,
		.uffd = -1,
	};

	if (mirror_open(&cell.device, test->place == COHERENT ? 2 : 0))
		exit(SKIP);
	run_cell(&cell, test->event, test->order);
	exit(PASS);
}

static void report(int status, const char *name)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP)
		ksft_test_result_skip("%s\n", name);
	else
		ksft_test_result(WIFEXITED(status) && !WEXITSTATUS(status),
				 "%s\n", name);
}

static void run_test(const struct test *test)
{
	int status = -1;
	char name[120];
	pid_t pid;

	snprintf(name, sizeof(name), "%s, %s, %s: %s", test->tracker->name,
		 place_names[test->place], order_names[test->order],
		 test->event->name);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(120);
		run_in_child(test);
	}
	waitpid(pid, &status, 0);
	report(status, name);
}

/*
 * Events while device memory is evicted, that is, while pages have migration
 * entries and no lock of the process is held.
 */

static void *evict(void *data)
{
	struct cell *cell = data;

	cell->evicting = true;
	happen_eviction(cell);
	return NULL;
}

/* Half of the pages are written. */
static void race_set_up(struct cell *cell)
{
	struct area *area = &cell->area;

	area_fill(area, 1);
	expect(to_device(&cell->device, area) == RACE_PAGES,
	       "pages do not go to the device");
	cell->tracker->start(cell);
	expect(!device_fill_part(&cell->device, area, 0, RACE_PAGES / 2, 2),
	       "device write");
	expect(to_device(&cell->device, area) == RACE_PAGES,
	       "pages do not go to the device again");
}

static void race_event(struct cell *cell, const struct event *event,
		       unsigned int round)
{
	struct timespec delay = { .tv_nsec = round * 50000L };
	pthread_t thread;

	cell->evicting = false;
	expect(!pthread_create(&thread, NULL, evict, cell), "no thread");
	while (!cell->evicting)
		sched_yield();
	nanosleep(&delay, NULL);
	event->happen(cell);
	pthread_join(thread, NULL);
}

static void race_round(struct cell *cell, const struct event *event,
		       unsigned int round)
{
	enum effect effect = effect_of(event, cell->tracker);
	unsigned int found, written = RACE_PAGES / 2;

	race_set_up(cell);
	race_event(cell, event, round);
	if (effect != NOTHING)
		written = effect == WRITES ? RACE_PAGES : 0;
	found = count_written(cell);
	expect(found == written, "round %u: %u pages are written, %u reported",
	       round, written, found);
	area_fill(&cell->area, 3);
	found = count_written(cell);
	expect(found == RACE_PAGES, "round %u: %u of %d writes are seen",
	       round, found, RACE_PAGES);
	if (event->end)
		event->end(cell);
}

static void run_race(const struct tracker *tracker, const struct event *event)
{
	struct cell cell = { .tracker = tracker, .uffd = -1 };

	if (mirror_open(&cell.device, 0))
		exit(SKIP);
	expect(!area_map(&cell.area, RACE_PAGES), "no memory");
	madvise(cell.area.at, RACE_PAGES * PAGE, MADV_NOHUGEPAGE);
	track(&cell);
	for (unsigned int i = 0; i < RACE_ROUNDS; i++)
		race_round(&cell, event, i);
	exit(PASS);
}

static void test_race(const struct tracker *tracker, const struct event *event)
{
	int status = -1;
	char name[80];
	pid_t pid;

	snprintf(name, sizeof(name), "%s, during eviction: %s", tracker->name,
		 event->name);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(300);
		run_race(tracker, event);
	}
	waitpid(pid, &status, 0);
	report(status, name);
}

/* Those that keep pages in place, and trackers that do not need a handler */
static bool race_exists(const struct tracker *tracker, const struct event *event)
{
	return event->races && !tracker->sync &&
	       effect_of(event, tracker) != IMPOSSIBLE;
}

static unsigned int count_races(void)
{
	unsigned int nr = 0;

	for (size_t t = 0; t < ARRAY_SIZE(trackers); t++)
		for (size_t e = 0; e < ARRAY_SIZE(events); e++)
			nr += race_exists(&trackers[t], &events[e]);
	return nr;
}

static void test_races(const struct tracker *tracker)
{
	for (size_t e = 0; e < ARRAY_SIZE(events); e++)
		if (race_exists(tracker, &events[e]))
			test_race(tracker, &events[e]);
}

/*
 * Everything at once: the device writes to the first half of the pages, the CPU
 * to the other half, and pages move. What changes between the start of a tracker
 * and its report must be in the report.
 */

static bool busy_goes_on(struct cell *cell)
{
	return !cell->over;
}

static uint64_t *busy_word(struct cell *cell, size_t page)
{
	return (void *)area_page(&cell->area, page);
}

static void *busy_device(void *data)
{
	struct cell *cell = data;
	uint64_t *buffer = calloc(PAGES / 2, PAGE);

	while (busy_goes_on(cell)) {
		for (size_t i = 0; i < PAGES / 2; i++)
			buffer[i * WORDS]++;
		mirror_call(&cell->device, HMM_DMIRROR_WRITE, cell->area.at,
			    PAGES / 2, buffer);
	}
	free(buffer);
	return NULL;
}

static void *busy_cpu(void *data)
{
	struct cell *cell = data;

	for (size_t i = 0; busy_goes_on(cell); i++)
		__atomic_fetch_add(busy_word(cell, PAGES / 2 + i % (PAGES / 2)),
				   1, __ATOMIC_RELAXED);
	return NULL;
}

static void *busy_mover(void *data)
{
	struct hmm_dmirror_cmd cmd = { .npages = 1 };
	struct cell *cell = data;
	struct area area = cell->area;

	area.buffer = calloc(PAGES, PAGE);
	for (size_t i = 0; busy_goes_on(cell); i++) {
		ask_to_device(&cell->device, &area, 0, PAGES);
		if (i & 1)
			ioctl(cell->device.fd, HMM_DMIRROR_RELEASE, &cmd);
	}
	free(area.buffer);
	return NULL;
}

static void busy_look(struct cell *cell, uint64_t *values)
{
	for (size_t i = 0; i < PAGES; i++)
		values[i] = __atomic_load_n(busy_word(cell, i),
					    __ATOMIC_RELAXED);
}

/* Return: how many changes there were. */
static unsigned int busy_round(struct cell *cell)
{
	uint64_t before[PAGES], after[PAGES];
	unsigned int written, changed = 0;

	cell->tracker->start(cell);
	busy_look(cell, before);
	race_pause_ms(1);
	busy_look(cell, after);
	written = cell->tracker->written(cell);
	for (size_t i = 0; i < PAGES; i++) {
		if (before[i] == after[i])
			continue;
		changed++;
		expect(written & 1U << i, "page %zu: %llu to %llu, not written",
		       i, (unsigned long long)before[i],
		       (unsigned long long)after[i]);
	}
	return changed;
}

static void run_busy(const struct tracker *tracker)
{
	static void *(*const work[])(void *) = {
		busy_device, busy_cpu, busy_mover,
	};
	struct cell cell = { .tracker = tracker, .uffd = -1 };
	pthread_t threads[ARRAY_SIZE(work)];
	time_t end = time(NULL) + BUSY_SECONDS;
	unsigned long changed = 0;

	if (mirror_open(&cell.device, 0))
		exit(SKIP);
	expect(!area_map(&cell.area, PAGES), "no memory");
	madvise(cell.area.at, PAGES * PAGE, MADV_NOHUGEPAGE);
	memset(cell.area.at, 0, PAGES * PAGE);
	track(&cell);
	for (size_t i = 0; i < ARRAY_SIZE(work); i++)
		expect(!pthread_create(&threads[i], NULL, work[i], &cell),
		       "no thread");
	while (time(NULL) < end)
		changed += busy_round(&cell);
	cell.over = true;
	for (size_t i = 0; i < ARRAY_SIZE(work); i++)
		pthread_join(threads[i], NULL);
	expect(changed, "nothing has changed");
	exit(PASS);
}

static void test_busy(const struct tracker *tracker)
{
	int status = -1;
	char name[80];
	pid_t pid;

	snprintf(name, sizeof(name), "%s, everything at once", tracker->name);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(120);
		run_busy(tracker);
	}
	waitpid(pid, &status, 0);
	report(status, name);
}

#define NR_CELLS	(ARRAY_SIZE(trackers) * ARRAY_SIZE(events) *	\
			 NR_PLACES * NR_ORDERS)

static struct test tests[NR_CELLS];

/* Return: how many tests there are. */
static unsigned int list_tests(void)
{
	unsigned int nr = 0;

	for (size_t i = 0; i < NR_CELLS; i++) {
		size_t rest = i / NR_ORDERS / NR_PLACES;

		tests[nr] = (struct test) {
			.order = i % NR_ORDERS,
			.place = i / NR_ORDERS % NR_PLACES,
			.event = &events[rest % ARRAY_SIZE(events)],
			.tracker = &trackers[rest / ARRAY_SIZE(events)],
		};
		nr += test_exists(&tests[nr]);
	}
	return nr;
}

/* A kernel without soft-dirty has nothing to show in a quarter of the table. */
static bool has_soft_dirty(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*page = 1;
	return pagemap_of(getpid(), page) & PAGEMAP_SOFT_DIRTY;
}

int main(void)
{
	unsigned int nr = list_tests();
	bool our_swap;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (!has_soft_dirty())
		ksft_exit_skip("the kernel has no soft-dirty\n");
	ksft_set_plan(nr + count_races() + NR_BUSY);
	race_swap_begin(&our_swap);
	for (unsigned int i = 0; i < nr; i++)
		run_test(&tests[i]);
	for (size_t t = 0; t < ARRAY_SIZE(trackers); t++) {
		test_races(&trackers[t]);
		if (!trackers[t].sync)
			test_busy(&trackers[t]);
	}
	race_swap_end(our_swap);
	ksft_finished();
}
