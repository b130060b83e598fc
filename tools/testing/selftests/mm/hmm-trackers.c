// SPDX-License-Identifier: GPL-2.0-only
/*
 * Trackers of writes see the writes of a device.
 *
 * The tests are a table of trackers, kinds of page-table entries, and events
 * that replace or change entries. A test goes like this:
 *
 *	the pages are moved to their place, and the tracker starts before or after
 *	the device writes the pages of group 0
 *	the event happens to all pages
 *	the device writes group 2, the CPU writes group 3, group 1 is not written
 *	all pages return to system memory
 *
 * After each step, the tracker must report the written pages and no others, and
 * the device must have no write permission for pages that are reported as not
 * written.
 *
 * More tests let events happen during eviction, and everything at once. Planted
 * failures show that each kind of test notices a tracker that misses writes.
 *
 * Each test is a process of its own, because clear_refs affects a process.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "hmm_test_child.h"
#include "hmm_test_common.h"

#define GROUP		2		/* pages of a group */
#define GROUPS		4
#define PAGES		(GROUPS * GROUP)
#define ALL		((1U << PAGES) - 1)
#define RACE_PAGES	256
#define RACE_ROUNDS	15
#define BUSY_SECONDS	5
#define NR_BUSY		3		/* trackers that need no handler */

/*
 * HUGE is a THP that was mapped by a PMD when the tracker started. FROM_HUGE is
 * the same, and its pages moved to the device since. SHARED is shmem.
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
	"present", "present in a THP", "shared", "private",
	"private from a THP", "coherent", "exclusive",
};

static const char *const order_names[] = {
	"tracked before", "tracked there",
};

/**
 * struct cell - the state of a test
 * @tracker: the tracker of writes
 * @place: the place of the pages
 * @device: the device that writes, and that holds the pages if they are on one
 * @area: the pages
 * @uffd: the userfaultfd, or -1
 * @handler: a thread that reads the events of @uffd and resolves its faults
 * @resolved: the number of faults that it resolved
 * @evicting: eviction has started
 * @over: threads have to end
 * @child: the child of a fork
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
 * struct tracker - an interface that tells which pages were written
 * @name: for messages
 * @uffd: the features of the userfaultfd that it needs
 * @start: forget all earlier writes
 * @written: Return: a bit for each page that was written since
 * @sync: a handler has to resolve each write
 * @blind: a planted failure: no write is ever reported
 */
struct tracker {
	const char *name;
	uint64_t uffd;
	void (*start)(struct cell *cell);
	unsigned int (*written)(struct cell *cell);
	bool sync;
	bool blind;
};

/* The effect of an event on the report of a tracker */
enum effect { NOTHING, WRITES, FORGETS, IMPOSSIBLE };

/**
 * struct event - an event that affects the pages
 * @name: for messages
 * @happen: the event
 * @soft_dirty: its effect for soft-dirty
 * @async: the same for asynchronous userfaultfd and PAGEMAP_SCAN
 * @sync: the same for userfaultfd with a handler
 * @end: called after the last check, or NULL
 * @races: it can happen during eviction, too
 * @anonymous: for anonymous memory only: the event does not affect shared
 *	memory, or shared memory loses its marks
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

/*
 * The trackers
 */

static unsigned int pages_with(struct cell *cell, uint64_t bit)
{
	unsigned int pages = 0;

	for (size_t i = 0; i < PAGES; i++)
		if (pagemap_entry(area_page(&cell->area, i)) & bit)
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

static void uffd_start(struct cell *cell)
{
	expect(!userfault_protect(cell->uffd, &cell->area, 0, cell->area.pages,
				  UFFDIO_WRITEPROTECT_MODE_WP), "cannot protect");
}

static void uffd_end(struct cell *cell)
{
	expect(!userfault_protect(cell->uffd, &cell->area, 0, cell->area.pages,
				  0), "cannot unprotect");
}

static unsigned int uffd_written(struct cell *cell)
{
	return ALL & ~pages_with(cell, PAGEMAP_UFFD_WP);
}

/* Return: the number of written regions, or -errno. */
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

static unsigned int written_pages(struct cell *cell)
{
	return cell->tracker->blind ? 0 : cell->tracker->written(cell);
}

/* For areas of any size: the number of pages that the tracker reports */
static unsigned int count_written(struct cell *cell)
{
	static struct page_region regions[RACE_PAGES];
	unsigned int pages = 0;
	long nr;

	if (cell->tracker->blind)
		return 0;
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

/* A planted failure: a tracker that misses all writes */
static const struct tracker blind_tracker = {
	.name = "blind tracker",
	.start = soft_dirty_start,
	.blind = true,
};

static int track_by_uffd(uint64_t features, const struct area *area)
{
	int uffd = userfault_open(features);

	if (uffd < 0)
		skip_child("no userfaultfd: %s", strerror(errno));
	fcntl(uffd, F_SETFL, 0);
	if (userfault_register(uffd, area, UFFDIO_REGISTER_MODE_WP))
		skip_child("no write protection by userfaultfd");
	return uffd;
}

static void resolve(struct cell *cell, const struct uffd_msg *message)
{
	uintptr_t at = message->arg.pagefault.address;
	size_t page = (at - (uintptr_t)cell->area.at) / PAGE;

	expect(cell->tracker->sync, "a fault that needs no handler");
	expect(message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP,
	       "a fault that is no write to a protected page");
	cell->resolved++;
	expect(!userfault_protect(cell->uffd, &cell->area, page, 1, 0),
	       "cannot unprotect");
}

/* fork() and mremap() wait until their events are read. */
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
		cell->uffd = track_by_uffd(cell->tracker->uffd, &cell->area);
		expect(!pthread_create(&cell->handler, NULL, handle_events,
				       cell), "no thread");
	}
	cell->tracker->start(cell);
}

/*
 * The events
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
		expect(!make_exclusive(&cell->device, &cell->area),
		       "no exclusive access");
}

static void happen_nothing(struct cell *cell)
{
}

/*
 * Move the pages to the other kind of memory, and back if they came from the
 * device. A page that is exclusive may stay.
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
	       "page %zu moved without a new page", page);
	flags.npages = 0;
	expect(!ioctl(cell->device.fd, HMM_DMIRROR_FLAGS, &flags), "no flags");
}

static void happen_failed_migration(struct cell *cell)
{
	for (size_t i = 0; i < PAGES; i++)
		fail_to_move(cell, i);
}

/* The device evicts all of its memory, by pfn. */
static void happen_eviction(struct cell *cell)
{
	int ret = mirror_call_once(&cell->device, HMM_DMIRROR_RELEASE, NULL, 1,
				   NULL);

	expect(!ret, "cannot evict: %d", ret);
	expect(!held(&cell->device, &cell->area), "pages stay");
}

static void happen_cpu_reads(struct cell *cell)
{
	for (size_t i = 0; i < PAGES; i++)
		cpu_try(area_page(&cell->area, i), CPU_READ);
}

static void happen_mprotect(struct cell *cell)
{
	expect(!area_protect(&cell->area, PROT_READ), "mprotect");
	expect(!area_protect(&cell->area, PROT_READ | PROT_WRITE),
	       "mprotect back");
}

/* The child inherits marks, but fork() copies no entries of shared memory. */
static void child_lives(struct cell *cell, unsigned int before)
{
	unsigned int written = count_written(cell);
	bool ok = written == before || cell->place == SHARED;

	if (!ok)
		race_note("child: %u pages are written, %u reported\n", before,
			  written);
	peer_tell(&cell->child);
	peer_hear(&cell->child);
	_exit(ok ? KSFT_PASS : KSFT_FAIL);
}

static void happen_fork(struct cell *cell)
{
	unsigned int before = count_written(cell);

	expect(!peer_fork(&cell->child), "fork");
	if (!cell->child.pid)
		child_lives(cell, before);
	expect(peer_hear(&cell->child), "the child died");
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
	struct area to = { .at = area_reserve(cell->area.pages) };

	expect(!area_move(&cell->area, &to), "mremap: %s", strerror(errno));
	cell->area.at = to.at;
}

/* Start a second time: earlier writes no longer count. */
static void happen_restart(struct cell *cell)
{
	cell->tracker->start(cell);
}

/* Another tracker, which must not affect the one that is tested */
static void happen_other_tracker(struct cell *cell)
{
	if (cell->tracker->uffd) {
		soft_dirty_start(cell);
		return;
	}
	cell->uffd = track_by_uffd(UFFD_FEATURE_WP_UNPOPULATED, &cell->area);
	uffd_start(cell);
	uffd_end(cell);
}

static void happen_exclusive(struct cell *cell)
{
	expect(!make_exclusive(&cell->device, &cell->area),
	       "no exclusive access");
}

static struct mirror open_other_device(void)
{
	struct mirror other;

	if (mirror_open(&other, 1))
		skip_child("no second device");
	return other;
}

/* Another device takes exclusive access over. */
static void happen_hand_over(struct cell *cell)
{
	struct mirror other = open_other_device();

	happen_exclusive(cell);
	expect(!make_exclusive(&other, &cell->area), "no hand-over");
}

/* Another device, which has none of the pages, writes the same contents. */
static void happen_other_writes(struct cell *cell)
{
	struct area *area = &cell->area;
	struct mirror other = open_other_device();

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
	area_advise(&cell->area, MADV_PAGEOUT);
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
		.name = "unprotect", .happen = uffd_end,
		.soft_dirty = IMPOSSIBLE, .async = WRITES, .sync = WRITES,
		.races = true,
	}, {
		/* does not wait for a handler: -EFAULT with uffd-wp sync */
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
 * A test of the table
 */

static unsigned int group_pages(unsigned int group)
{
	return ((1U << GROUP) - 1) << group * GROUP;
}

/* The device must have no write permission for a page that is not written. */
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
		       "%s: the device may write page %zu: %#x", when, i,
		       place);
	}
}

static void check(struct cell *cell, unsigned int written, const char *when)
{
	unsigned int found = written_pages(cell);

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
		       "the device reads wrong data in group %u", i);
		expect(!cpu_wrong_part(&cell->area, i * GROUP, GROUP,
				       contents[i]),
		       "the CPU reads wrong data in group %u", i);
	}
}

static void map_memory(struct cell *cell)
{
	struct area *area = &cell->area;

	if (cell->place == HUGE || cell->place == FROM_HUGE) {
		skip_child_for(map_thp(area, 1));
		return;
	}
	if (cell->place == SHARED)
		expect(!area_map_file(area, PAGES, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1),
		       "no memory");
	else
		expect(!area_map(area, PAGES), "no memory");
	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
}

static void set_up(struct cell *cell, enum order order)
{
	map_memory(cell);
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
		       "pages left the device when it wrote them");
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
 * struct test - a position in the table
 * @tracker: the tracker of writes
 * @event: the event
 * @place: the place of the pages
 * @order: the tracker starts before or after the pages move there
 */
struct test {
	const struct tracker *tracker;
	const struct event *event;
	enum place place;
	enum order order;
};

static bool test_exists(const struct test *test)
{
	/* Exclusive access counts as a write: it precedes the tracker. */
	if (test->place == EXCLUSIVE && test->order == TRACK_FIRST)
		return false;
	if (test->place == FROM_HUGE && test->order == PLACE_FIRST)
		return false;
	/* A THP has one soft-dirty bit for all of its pages. */
	if (test->place == HUGE &&
	    (test->order == PLACE_FIRST || !test->tracker->uffd))
		return false;
	if (test->place == SHARED && test->event->anonymous)
		return false;
	return effect_of(test->event, test->tracker) != IMPOSSIBLE;
}

static void open_device(struct cell *cell, unsigned int nr)
{
	if (mirror_open(&cell->device, nr))
		skip_child("no /dev/hmm_dmirror%u", nr);
}

static void run_table_test(const void *data)
{
	const struct test *test = data;
	struct cell cell = {
		.tracker = test->tracker,
		.place = test->place,
		.uffd = -1,
	};

	open_device(&cell, test->place == COHERENT ? 2 : 0);
	run_cell(&cell, test->event, test->order);
}

static void report_table_test(const struct test *test)
{
	char name[120];

	snprintf(name, sizeof(name), "%s, %s, %s: %s", test->tracker->name,
		 place_names[test->place], order_names[test->order],
		 test->event->name);
	child_report(child_run(run_table_test, test, 120), name);
}

/*
 * Events during eviction, that is, while pages have migration entries and no
 * lock of the process is held
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
	expect(found == written, "round %u: %u pages written, %u reported",
	       round, written, found);
	area_fill(&cell->area, 3);
	found = count_written(cell);
	expect(found == RACE_PAGES, "round %u: %u of %d writes reported",
	       round, found, RACE_PAGES);
	if (event->end)
		event->end(cell);
}

static void run_race(const void *data)
{
	const struct test *test = data;
	struct cell cell = { .tracker = test->tracker, .uffd = -1 };

	open_device(&cell, 0);
	expect(!area_map(&cell.area, RACE_PAGES), "no memory");
	area_advise(&cell.area, MADV_NOHUGEPAGE);
	track(&cell);
	for (unsigned int i = 0; i < RACE_ROUNDS; i++)
		race_round(&cell, test->event, i);
}

static void report_race(const struct tracker *tracker,
			const struct event *event)
{
	struct test test = { .tracker = tracker, .event = event };
	char name[80];

	snprintf(name, sizeof(name), "%s, during eviction: %s", tracker->name,
		 event->name);
	child_report(child_run(run_race, &test, 300), name);
}

/* Events that do not move pages, and trackers without a handler */
static bool race_exists(const struct tracker *tracker,
			const struct event *event)
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

static void report_races(const struct tracker *tracker)
{
	for (size_t e = 0; e < ARRAY_SIZE(events); e++)
		if (race_exists(tracker, &events[e]))
			report_race(tracker, &events[e]);
}

/*
 * Everything at once: the device writes one half of the pages, the CPU writes
 * the other half, and pages move. A change between the start of the tracker and
 * its report must be in the report.
 */

static uint64_t *busy_word(struct cell *cell, size_t page)
{
	return (void *)area_page(&cell->area, page);
}

static void *busy_device(void *data)
{
	struct cell *cell = data;
	uint64_t *buffer = calloc(PAGES / 2, PAGE);

	while (!cell->over) {
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

	for (size_t i = 0; !cell->over; i++)
		__atomic_fetch_add(busy_word(cell, PAGES / 2 + i % (PAGES / 2)),
				   1, __ATOMIC_RELAXED);
	return NULL;
}

static void *busy_mover(void *data)
{
	struct cell *cell = data;
	struct area area = cell->area;

	area.buffer = calloc(PAGES, PAGE);
	for (size_t i = 0; !cell->over; i++) {
		ask_to_device(&cell->device, &area, 0, PAGES);
		if (i & 1)
			mirror_call_once(&cell->device, HMM_DMIRROR_RELEASE,
					 NULL, 1, NULL);
	}
	free(area.buffer);
	return NULL;
}

static void busy_read(struct cell *cell, uint64_t *values)
{
	for (size_t i = 0; i < PAGES; i++)
		values[i] = __atomic_load_n(busy_word(cell, i),
					    __ATOMIC_RELAXED);
}

/* Return: the number of pages that changed. */
static unsigned int busy_round(struct cell *cell)
{
	uint64_t before[PAGES], after[PAGES];
	unsigned int written, changed = 0;

	cell->tracker->start(cell);
	busy_read(cell, before);
	race_pause_ms(1);
	busy_read(cell, after);
	written = written_pages(cell);
	for (size_t i = 0; i < PAGES; i++) {
		if (before[i] == after[i])
			continue;
		changed++;
		expect(written & 1U << i, "page %zu: %llu to %llu, not reported",
		       i, (unsigned long long)before[i],
		       (unsigned long long)after[i]);
	}
	return changed;
}

static void run_busy(const void *data)
{
	static void *(*const work[])(void *) = {
		busy_device, busy_cpu, busy_mover,
	};
	struct cell cell = { .tracker = data, .uffd = -1 };
	pthread_t threads[ARRAY_SIZE(work)];
	time_t end = time(NULL) + BUSY_SECONDS;
	unsigned long changed = 0;

	open_device(&cell, 0);
	expect(!area_map(&cell.area, PAGES), "no memory");
	area_advise(&cell.area, MADV_NOHUGEPAGE);
	area_fill(&cell.area, 0);
	track(&cell);
	for (size_t i = 0; i < ARRAY_SIZE(work); i++)
		expect(!pthread_create(&threads[i], NULL, work[i], &cell),
		       "no thread");
	while (time(NULL) < end)
		changed += busy_round(&cell);
	cell.over = true;
	for (size_t i = 0; i < ARRAY_SIZE(work); i++)
		pthread_join(threads[i], NULL);
	expect(changed, "no page changed");
}

static void report_busy(const struct tracker *tracker)
{
	char name[80];

	snprintf(name, sizeof(name), "%s, everything at once", tracker->name);
	child_report(child_run(run_busy, tracker, 120), name);
}

/*
 * Planted failures: each kind of test has to fail with the blind tracker. The
 * failure is printed as a comment.
 */

static void report_planted(void (*run)(const void *test), const void *test,
			   const char *name)
{
	int status = child_run(run, test, 120);

	if (status == KSFT_SKIP)
		child_report(status, name);
	else
		child_report(status == KSFT_FAIL ? KSFT_PASS : KSFT_FAIL, name);
}

#define NR_PLANTED	3

static void report_all_planted(void)
{
	static const struct test test = {
		.tracker = &blind_tracker,
		.event = &events[0],
		.place = PRIVATE,
	};

	report_planted(run_table_test, &test, "planted failure in the table");
	report_planted(run_race, &test, "planted failure during eviction");
	report_planted(run_busy, &blind_tracker,
		       "planted failure with everything at once");
}

#define NR_CELLS	(ARRAY_SIZE(trackers) * ARRAY_SIZE(events) *	\
			 NR_PLACES * NR_ORDERS)

static struct test tests[NR_CELLS];

/* Return: the number of tests. */
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

static bool has_soft_dirty(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*page = 1;
	return pagemap_entry(page) & PAGEMAP_SOFT_DIRTY;
}

int main(void)
{
	unsigned int nr = list_tests();
	bool our_swap;

	child_init();
	ksft_print_header();
	if (!has_soft_dirty())
		ksft_exit_skip("the kernel has no soft-dirty\n");
	ksft_set_plan(nr + count_races() + NR_BUSY + NR_PLANTED);
	race_swap_begin(&our_swap);
	for (unsigned int i = 0; i < nr; i++)
		report_table_test(&tests[i]);
	for (size_t t = 0; t < ARRAY_SIZE(trackers); t++) {
		report_races(&trackers[t]);
		if (!trackers[t].sync)
			report_busy(&trackers[t]);
	}
	report_all_planted();
	race_swap_end(our_swap);
	ksft_finished();
}
