// SPDX-License-Identifier: GPL-2.0-only
/* Operations that change the mapping of tortured memory, or discard it. */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

/* Under contents. */
bool discard_block(struct worker *w, const struct span *s)
{
	race_change_begin(record(s), hole_leaves(s->region));
	if (madvise(span_address(s), block_size, MADV_DONTNEED))
		return false;
	race_change_end(record(s));
	let_device_confirm(w, s);
	return true;
}

/*
 * Again and again, to meet readers between the begin of the change and the
 * discard. Of shared memory, MADV_DONTNEED discards only the mapping.
 */
bool op_discard(struct worker *w)
{
	struct span s = pick_block(w);
	unsigned int rounds = 1 + below(w, 16);
	bool ok;

	if (!is_own(s.region))
		return !madvise(span_address(&s), block_size, MADV_DONTNEED);
	lock_contents(&s);
	ok = discard_block(w, &s);
	while (ok && --rounds)
		ok = cpu_fill(w, &s) && discard_block(w, &s);
	unlock_contents(&s);
	return ok;
}

bool op_let_free(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok = false;

	s.region = &regions[one_in(w, 2) ? OWN_HUGE : OWN_SMALL];
	lock_contents(&s);
	if (!race_window_is_wide(record(&s))) {
		race_change_begin(record(&s), RACE_LEAVES_ZERO);
		ok = !madvise(span_address(&s), block_size, MADV_FREE);
	}
	unlock_contents(&s);
	return ok;
}

/* Advice that does not change the contents. */
bool op_advise(struct worker *w)
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

bool op_collapse(struct worker *w)
{
	struct region *region = &regions[below(w, NR_REGIONS)];

	return !madvise(region->addr, region_size, MADV_COLLAPSE);
}

bool op_lock_memory(struct worker *w)
{
	struct span s = pick_span(w);
	char *addr = span_address(&s);
	unsigned int flags = one_in(w, 2) ? MLOCK_ONFAULT : 0;
	bool ok = !mlock2(addr, span_size(&s), flags);

	munlock(addr, span_size(&s));
	return ok;
}

/* With the mapping held. */
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

/* Shared anonymous memory could not be mapped again. */
bool op_remap(struct worker *w)
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

/* Map the whole region anew, or soon there would be no huge page any more. */
bool op_renew(struct worker *w)
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
	return mremap(from, block_size, block_size,
		      MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

/*
 * If mremap() has to split a VMA to unmap the old addresses and has no memory
 * for that, it still succeeds, and leaves zeroes mapped there, which no reader
 * may see. So the block gets a VMA of its own before, by harmless advice that
 * its neighbours do not have.
 */
static bool set_apart(const struct span *s)
{
	return !madvise(span_address(s), block_size,
			s->first % 2 ? MADV_DONTDUMP : MADV_SEQUENTIAL);
}

static bool put_together(const struct span *s)
{
	return !madvise(span_address(s), block_size,
			s->first % 2 ? MADV_DODUMP : MADV_NORMAL);
}

static bool is_mapped(const struct span *s)
{
	unsigned char in_core[MAX_BLOCK_PAGES];

	return !mincore(span_address(s), block_size, in_core);
}

static void look_at_spare(struct worker *w, const struct span *s,
			  struct view *view)
{
	if (one_in(w, 2))
		race_device(near_device(w), HMM_DMIRROR_MIGRATE_TO_DEV,
			    w->spare, block_pages + !own_driver, w->buffer);
	if (!try_copy(w->buffer, w->spare, block_size))
		return;
	view_close(view, s);
	check_block("CPU read of moved memory", s, view, w->buffer);
}

/* To the spare addresses, there perhaps to a device, and back. */
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
	       mmap(w->spare, block_size, PROT_NONE, MAP_PRIVATE |
		    MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w->spare);
	return moved;
}

bool op_move(struct worker *w)
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

/* No change has these words, so it is found if a device writes them. */
static void try_forbidden_write(struct worker *w, const struct span *s)
{
	memset(w->buffer, 0xee, block_size);
	if (!race_device(far_device(w), HMM_DMIRROR_WRITE, span_address(s),
			 block_pages, w->buffer))
		complain(ERRORS, "a device writes to read-only memory: %s, block %u\n",
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
	ok = !mprotect(addr, block_size, prot);
	if (ok)
		ok = meanwhile(w, s);
	insist("mprotect back",
	       !mprotect(addr, block_size, PROT_READ | PROT_WRITE));
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

/* With contents held no other thread writes; otherwise writers may fail. */
bool op_protect(struct worker *w)
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
