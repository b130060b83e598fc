// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accesses to tortured memory by CPUs and devices, migration, and exclusive
 * access.
 */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

/* The CPU */

static void on_fault(int signal)
{
	if (self && self->guarded)
		siglongjmp(self->jump, 1);
	complain(PROCESSES, "unexpected signal %d\n", signal);
	_exit(KSFT_FAIL);
}

void catch_faults(void)
{
	struct sigaction action = {
		.sa_handler = on_fault,
		.sa_flags = SA_NODEFER,
	};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

/* Word by word, because the oracle judges words. */
static void copy_words(uint32_t *to, const uint32_t *from, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		__atomic_store_n(&to[i],
				 __atomic_load_n(&from[i], __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

/* Return: false if the memory is not accessible. */
bool try_copy(void *to, const void *from, size_t size)
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

bool cpu_read_block(struct worker *w, const char *who,
		    const struct span *s)
{
	struct view view = view_open(s);

	if (!try_copy(w->buffer, span_address(s), block_size)) {
		check_error(who, &view, s);
		return false;
	}
	view_close(&view, s);
	return check_block(who, s, &view, w->buffer);
}

bool op_cpu_read(struct worker *w)
{
	struct span s = pick_block(w);

	return cpu_read_block(w, "CPU read", &s);
}

/* With w->buffer filled for the change. */
static bool cpu_store(struct worker *w, const struct span *s)
{
	struct view view = view_open(s);

	if (try_copy(span_address(s), w->buffer, block_size))
		return true;
	check_error("CPU write", &view, s);
	return false;
}

/* Under contents. Other changes may follow one that was not ended. */
bool cpu_fill(struct worker *w, const struct span *s)
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

bool op_cpu_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	lock_contents(&s);
	ok = cpu_fill(w, &s);
	unlock_contents(&s);
	return ok;
}

/*
 * Write again and again to the same page while it moves. No other thread writes
 * to it, so the last write must be found there, and not in the old page.
 */
#define HAMMERS		100
#define HAMMER_WORDS	256

static bool hammer_page(struct worker *w, const struct span *s,
			unsigned int nr)
{
	uint32_t *words = (uint32_t *)span_address(s) + nr * page_words;
	uint32_t number = race_change_begin(record(s), RACE_LEAVES_WORDS);
	uint32_t *back = w->buffer + page_words;
	size_t size = HAMMER_WORDS * sizeof(*words);

	race_fill(w->buffer, HAMMER_WORDS,
		  race_key(page_of(s, nr).id, number), number);
	if (!try_copy(words, w->buffer, size) || !try_copy(back, words, size))
		return false;
	if (!memcmp(back, w->buffer, size))
		return true;
	complain(WORDS, "a CPU write is lost: %s, page %u, change %u\n",
		 region_names[s->region->nr], s->first * block_pages + nr,
		 number);
	return false;
}

bool op_hammer(struct worker *w)
{
	struct span s = hot_block();
	unsigned int nr = below(w, block_pages), done = 0;

	lock_contents(&s);
	if (!race_window_is_wide(record(&s)))
		while (done < HAMMERS && hammer_page(w, &s, nr))
			done++;
	cpu_fill(w, &s);
	unlock_contents(&s);
	return done;
}

/* The same text in all blocks, for KSM. Regions of files have another one. */
bool op_write_same(struct worker *w)
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

/* A device that reads and writes. All workers often get the same one. */
int far_device(struct worker *w)
{
	if (!own_driver)
		return pick_of(w, 1, 2);
	return one_in(w, 2) ? devices[hot_hash() % 2] : pick_of(w, 0, 1);
}

/* One that migrates. */
int near_device(struct worker *w)
{
	return own_driver ? pick_of(w, 0, 1) : pick_of(w, 0, 2);
}

/*
 * Words that a device read does not write to the buffer show as the stamp, or
 * as the words of another page.
 */
static void stamp_buffer(struct worker *w, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		for (size_t j = 0; j < 4; j++)
			w->buffer[i * page_words + j] = STAMP;
}

bool device_read_span(struct worker *w, const char *who, int fd,
		      unsigned long request, const struct span *s)
{
	struct views views = views_open(s);
	size_t pages = s->nr * block_pages;

	stamp_buffer(w, pages);
	if (race_device(fd, request, span_address(s), pages, w->buffer)) {
		check_span_error(who, s, &views);
		return false;
	}
	return check_span(who, s, &views, w->buffer, pages);
}

bool op_device_read(struct worker *w)
{
	struct span s = pick_span(w);
	int fd = far_device(w);

	if (own_driver && one_in(w, 2))
		return device_read_span(w, "unlocked device read", fd,
					HMM_DMIRROR_READ_UNLOCKED, &s);
	return device_read_span(w, "device read", fd, HMM_DMIRROR_READ, &s);
}

/*
 * Under contents, after a change: no device may have older contents, even if it
 * was reading during the change.
 */
void let_device_confirm(struct worker *w, const struct span *s)
{
	if (!one_in(w, 4))
		device_read_span(w, "device read after the change",
				 far_device(w), HMM_DMIRROR_READ, s);
}

/* Under contents. If the device fails, the CPU writes. */
bool device_fill(struct worker *w, int fd, const struct span *s)
{
	struct view view = view_open(s);

	fill_block(w->buffer, s,
		   race_change_begin(record(s), RACE_LEAVES_WORDS));
	if (!race_device(fd, HMM_DMIRROR_WRITE, span_address(s), block_pages,
			 w->buffer)) {
		race_change_end(record(s));
		return true;
	}
	check_error("device write", &view, s);
	cpu_fill(w, s);
	return false;
}

bool op_device_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	lock_contents(&s);
	ok = device_fill(w, far_device(w), &s);
	unlock_contents(&s);
	return ok;
}

/* Shared memory does not move to a device, so it is rarely tried. */
static struct span pick_movable(struct worker *w)
{
	struct span s = pick_span(w);

	if (!is_own(s.region) && !one_in(w, 4))
		s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	return s;
}

/*
 * Pages that are not aligned to blocks; with the base's driver, up to the gap.
 */
static size_t pick_pages(struct worker *w, const struct span *s, char **addr)
{
	unsigned int skip = below(w, block_pages);

	*addr = span_address(s) + skip * page_size;
	if (!own_driver)
		return (s->region->addr + region_size - *addr) / page_size + 1;
	return 1 + below(w, s->nr * block_pages - skip);
}

/* For holes that are smaller than a PMD */
uint64_t pick_hole_order(struct worker *w)
{
	return HMM_DMIRROR_FLAG_HOLE_ORDER(2ULL + below(w, 7));
}

/*
 * The order of the folios in holes stays until the next choice; a failure is
 * for one allocation.
 */
void vary_allocation(struct worker *w, int fd)
{
	uint64_t flags = one_in(w, 2) ? HMM_DMIRROR_FLAG_FAIL_ALLOC : 0;

	if (!own_driver || !one_in(w, 4))
		return;
	if (large_folios && one_in(w, 2))
		flags |= pick_hole_order(w);
	race_device(fd, HMM_DMIRROR_FLAGS, NULL, flags, NULL);
}

/* The device says how many pages it has read, even after an error. */
bool migrate_checked(struct worker *w, int fd, const struct span *s)
{
	struct views views = views_open(s);
	size_t done;

	race_device_counted(fd, HMM_DMIRROR_MIGRATE_TO_DEV, span_address(s),
			    s->nr * block_pages, w->buffer, &done);
	check_span("read after migration", s, &views, w->buffer, done);
	return done;
}

bool op_to_device(struct worker *w)
{
	struct span s = pick_movable(w);
	int fd = near_device(w);
	unsigned char seen[MAX_BLOCK_PAGES];
	size_t nr, probe;
	char *addr;

	if (!own_driver && s.first < NR_BLOCKS / 2)
		s.first += NR_BLOCKS / 2;
	vary_allocation(w, fd);
	if (own_driver && one_in(w, 2))
		return migrate_checked(w, fd, &s);
	nr = pick_pages(w, &s, &addr);
	if (!race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, addr, nr, w->buffer))
		return true;
	probe = nr - 1 < block_pages ? nr - 1 : block_pages;
	return probe && race_local_pages(fd, addr, probe, seen).pages;
}

/*
 * CPU accesses soon bring device pages back, so often they are migrated to the
 * device just before. Return: whether any page migrated to system memory.
 */
bool op_to_system(struct worker *w)
{
	struct span s = pick_movable(w);
	int fd = near_device(w);
	size_t done;

	if (own_driver && one_in(w, 2))
		migrate_checked(w, fd, &s);
	vary_allocation(w, fd);
	race_device_counted(fd, HMM_DMIRROR_MIGRATE_TO_SYS, span_address(&s),
			    s.nr * block_pages, w->buffer, &done);
	return done;
}

bool op_snapshot(struct worker *w)
{
	unsigned char perm[SPAN_BLOCKS * MAX_BLOCK_PAGES];
	struct span s = pick_span(w);

	return !race_device(near_device(w), HMM_DMIRROR_SNAPSHOT,
			    span_address(&s), s.nr * block_pages, perm);
}

/* Exclusive access */

/*
 * ENOENT: revoked before the device could read. EOPNOTSUPP: only anonymous
 * memory has device-exclusive entries.
 */
static bool exclusive_may_fail(const struct span *s, int error)
{
	return error == ENOENT || (error == EOPNOTSUPP && !is_own(s->region));
}

static bool make_exclusive(struct worker *w, int fd, const struct span *s)
{
	struct view view = view_open(s);

	if (race_device(fd, HMM_DMIRROR_EXCLUSIVE, span_address(s),
			block_pages, w->buffer)) {
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
			   block_pages, NULL) && errno == EPERM;
}

bool op_exclusive(struct worker *w)
{
	struct span s = pick_block(w);

	return make_exclusive(w, far_device(w), &s);
}

/* The CPU writes all of the block, which revokes the exclusive access. */
bool op_take_back(struct worker *w)
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
