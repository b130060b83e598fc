/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What threads of a worker do to memory, and the table that they pick it from.
 * An operation returns whether it has had an effect. It holds no lock and keeps
 * nothing when it returns; it may be killed at any place.
 *
 * A part of hmm-torture.c, which alone includes it.
 */
#ifndef HMM_TORTURE_OPS_H
#define HMM_TORTURE_OPS_H

#include "hmm_torture_memory.h"

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

/*
 * Again and again to the same page, which moves meanwhile. Nobody else changes
 * it, so what was written last must be there: not in the page that was left.
 */
#define HAMMERS		100
#define HAMMER_WORDS	256

static bool hammer_page(struct worker *w, const struct span *s,
			unsigned int nr)
{
	uint32_t *words = (uint32_t *)span_address(s) + nr * PAGE_WORDS;
	uint32_t number = race_change_begin(record(s), RACE_LEAVES_WORDS);
	uint32_t *back = w->buffer + PAGE_WORDS;
	size_t size = HAMMER_WORDS * sizeof(*words);

	race_fill(w->buffer, HAMMER_WORDS,
		  race_key(page_of(s, nr).id, number), number);
	if (!try_copy(words, w->buffer, size) || !try_copy(back, words, size))
		return false;
	if (!memcmp(back, w->buffer, size))
		return true;
	complain(WORDS, "a CPU write is lost: %s, page %u, change %u\n",
		 region_names[s->region->nr], s->first * BLOCK_PAGES + nr,
		 number);
	return false;
}

static bool hammer(struct worker *w)
{
	struct span s = hot_block();
	unsigned int nr = below(w, BLOCK_PAGES), done = 0;

	lock_contents(&s);
	if (!race_window_is_wide(record(&s)))
		while (done < HAMMERS && hammer_page(w, &s, nr))
			done++;
	cpu_fill(w, &s);
	unlock_contents(&s);
	return done;
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

/* A device that reads and writes: often the same for all, as the block is. */
static int far_device(struct worker *w)
{
	if (!own_driver)
		return pick_of(w, 1, 2);
	return one_in(w, 2) ? devices[hot_hash() % 2] : pick_of(w, 0, 1);
}

/* One that migrates. */
static int near_device(struct worker *w)
{
	return own_driver ? pick_of(w, 0, 1) : pick_of(w, 0, 2);
}

/*
 * What a device read does not write, or what is lost of it again, shows: as the
 * stamp, or as what was in the buffer before.
 */
static void stamp_buffer(struct worker *w, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		for (size_t j = 0; j < 4; j++)
			w->buffer[i * PAGE_WORDS + j] = STAMP;
}

static bool device_read_span(struct worker *w, const char *who, int fd,
			     unsigned long request, const struct span *s)
{
	struct views views = views_open(s);
	size_t pages = s->nr * BLOCK_PAGES;

	stamp_buffer(w, pages);
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

/* What is shared does not move to a device: that is for seldom. */
static struct span pick_movable(struct worker *w)
{
	struct span s = pick_span(w);

	if (!is_own(s.region) && !one_in(w, 4))
		s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	return s;
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
		race_device(fd, HMM_DMIRROR_FLAGS, NULL, HMM_DMIRROR_FLAG_FAIL_ALLOC,
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
	struct span s = pick_movable(w);
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

/*
 * Others soon take home what is on a device, so often it goes there just before.
 * Return: whether any page came home.
 */
static bool to_system(struct worker *w)
{
	struct span s = pick_movable(w);
	int fd = near_device(w);
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)span_address(&s),
		.ptr = (uintptr_t)w->buffer,
		.npages = s.nr * BLOCK_PAGES,
	};

	if (own_driver && one_in(w, 2))
		migrate_checked(w, fd, &s);
	fail_next_allocation(w, fd);
	ioctl(fd, HMM_DMIRROR_MIGRATE_TO_SYS, &cmd);
	return cmd.cpages;
}

static bool snapshot(struct worker *w)
{
	unsigned char perm[SPAN_BLOCKS * BLOCK_PAGES];
	struct span s = pick_span(w);

	return !race_device(near_device(w), HMM_DMIRROR_SNAPSHOT,
			    span_address(&s), s.nr * BLOCK_PAGES, perm);
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

/*
 * Under contents, after a change: no device has anything older any more, even
 * if it was just looking.
 */
static void let_device_confirm(struct worker *w, const struct span *s)
{
	if (!one_in(w, 4))
		device_read_span(w, "device read after the change",
				 far_device(w), HMM_DMIRROR_READ, s);
}

static bool discard_block(struct worker *w, const struct span *s)
{
	race_change_begin(record(s), hole_leaves(s->region));
	if (madvise(span_address(s), BLOCK_SIZE, MADV_DONTNEED))
		return false;
	race_change_end(record(s));
	let_device_confirm(w, s);
	return true;
}

/*
 * Again and again, to meet readers between the announcement and the change. Of
 * shared memory this takes only the mapping.
 */
static bool discard(struct worker *w)
{
	struct span s = pick_block(w);
	unsigned int rounds = 1 + below(w, 16);
	bool ok;

	if (!is_own(s.region))
		return !madvise(span_address(&s), BLOCK_SIZE, MADV_DONTNEED);
	lock_contents(&s);
	ok = discard_block(w, &s);
	while (ok && --rounds)
		ok = cpu_fill(w, &s) && discard_block(w, &s);
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
	let_device_confirm(w, s);
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

/*
 * Where mremap() would have to split a mapping to unmap the old addresses and
 * has no memory for it, it says nothing, and leaves zeroes mapped there, which
 * is for nobody to see. So the block gets a mapping of its own before, by advice
 * of little consequence that those beside it do not have.
 */
static bool set_apart(const struct span *s)
{
	return !madvise(span_address(s), BLOCK_SIZE,
			s->first % 2 ? MADV_DONTDUMP : MADV_SEQUENTIAL);
}

static bool put_together(const struct span *s)
{
	return !madvise(span_address(s), BLOCK_SIZE,
			s->first % 2 ? MADV_DODUMP : MADV_NORMAL);
}

static bool is_mapped(const struct span *s)
{
	unsigned char in_core[BLOCK_PAGES];

	return !mincore(span_address(s), BLOCK_SIZE, in_core);
}

static void look_at_spare(struct worker *w, const struct span *s,
			  struct view *view)
{
	if (one_in(w, 2))
		race_device(near_device(w), HMM_DMIRROR_MIGRATE_TO_DEV,
			    w->spare, BLOCK_PAGES + !own_driver, w->buffer);
	if (!try_copy(w->buffer, w->spare, BLOCK_SIZE))
		return;
	view_close(view, s);
	check_block("CPU read of moved memory", s, view, w->buffer);
}

/* There, perhaps to a device, and home. */
static bool move_there_and_back(struct worker *w, const struct span *s)
{
	char *addr = span_address(s);
	struct view view = view_open(s);
	bool moved = move_block(addr, w->spare);

	if (moved) {
		if (is_mapped(s))
			complain(ERRORS, "mremap leaves the old mapping: %s, block %u\n",
				 region_names[s->region->nr], s->first);
		look_at_spare(w, s, &view);
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
	ok = set_apart(&s);
	if (ok) {
		bar(&s);
		ok = move_there_and_back(w, &s);
		unbar(&s);
		insist("advice", put_together(&s));
	}
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
	if (ok) {
		race_change_end(record(&s));
		let_device_confirm(w, &s);
	} else {
		cpu_fill(w, &s);
	}
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
	if (!check_block(who, s, &view, w->buffer))
		note("pinned by %d, the last to pin is %d; mapping gone %u times, back %u\n",
		     gettid(), control->gup_holder, mapping(s)->bars,
		     mapping(s)->unbars);
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
	control->gup_holder = gettid();
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

	c->region.id ^= child_salt(getpid());
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

/* The child keeps what it got, whatever a device of the parent writes then. */
static bool fork_child(struct worker *w)
{
	struct span s = pick_block(w);
	pid_t pid = -1;

	if (!is_own(s.region))
		s.region = &regions[below(w, NR_OWN)];
	lock_contents(&s);
	if (get_mapping(&s)) {
		pid = fork_now(w, &s);
		put_mapping(&s);
	}
	if (pid > 0 && one_in(w, 2))
		device_fill(w, far_device(w), &s);
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
	unsigned int needs;
	bool off;
};

/* What needs NOTHING, or what the system has, must succeed now and then. */
static bool is_due(const struct op *op)
{
	return op->needs == NOTHING || control->has[op->needs];
}

#define OP(name_, run_, weight_, ...)					\
	{ .name = name_, .run = run_, .weight = weight_, __VA_ARGS__ }

static struct op ops[] = {
	OP("CPU read", cpu_read, 10),
	OP("CPU write", cpu_write, 10),
	OP("hammer", hammer, 6),
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
	OP("collapse", collapse, 1, .needs = LUCK),
	OP("mlock", lock_memory, 1),
	OP("mmap", remap, 3),
	OP("region anew", renew, 1, .needs = LUCK),
	OP("mremap", move, 3),
	OP("mprotect", protect, 4),
	OP("punch", punch, 2),
	OP("truncate", truncate_file, 1),
	OP("read()", file_read, 2),
	OP("write()", file_write, 2),
	OP("direct out", direct_out, 2, .needs = DIRECT_IO),
	OP("direct in", direct_in, 2, .needs = DIRECT_IO),
	OP("pin", pin_short, 4, .needs = GUP_TEST),
	OP("long-term pin", pin_long, 2, .needs = GUP_TEST),
	OP("vmsplice", splice_out, 2),
	OP("other process", read_other, 2),
	OP("uffd-wp", write_protect, 3, .needs = USERFAULTFD),
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

#endif /* HMM_TORTURE_OPS_H */
