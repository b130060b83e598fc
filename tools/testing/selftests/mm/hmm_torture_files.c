// SPDX-License-Identifier: GPL-2.0-only
/* Operations on the files behind tortured memory, and direct I/O. */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

static struct region *pick_file(struct worker *w)
{
	return &regions[one_in(w, 2) ? SHARED_SHMEM : SHARED_FILE];
}

bool op_punch(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	s.region = pick_file(w);
	lock_contents(&s);
	race_change_begin(record(&s), RACE_LEAVES_ZERO);
	if (one_in(w, 2))
		ok = !fallocate(s.region->fd, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, s.first * block_size,
				block_size);
	else
		ok = !madvise(span_address(&s), block_size, MADV_REMOVE);
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
		race_bar(record(&s), RACE_READ);
		race_change_begin(record(&s), RACE_LEAVES_ZERO);
	}
}

static void unlock_tail(const struct span *tail, bool whole)
{
	for (unsigned int i = 0; i < tail->nr; i++) {
		struct span s = span_block(tail, i);

		if (whole)
			race_change_end(record(&s));
		race_unbar(record(&s), RACE_READ);
		unlock_contents(&s);
	}
}

bool op_truncate_file(struct worker *w)
{
	struct span tail = { .region = pick_file(w) };
	bool ok;

	tail.nr = 1 + below(w, TAIL_BLOCKS);
	tail.first = NR_BLOCKS - tail.nr;
	lock_tail(&tail);
	ok = !ftruncate(tail.region->fd, tail.first * block_size);
	if (one_in(w, 2))
		race_pause_ms(below(w, 3));
	insist("ftruncate", !ftruncate(tail.region->fd, region_size));
	unlock_tail(&tail, ok);
	return ok;
}

bool op_file_read(struct worker *w)
{
	struct span s = pick_block(w);
	struct view view;

	s.region = pick_file(w);
	view = view_open(&s);
	if (pread(s.region->fd, w->buffer, block_size,
		  s.first * block_size) != (ssize_t)block_size) {
		check_error("read() of a file", &view, &s);
		return false;
	}
	view_close(&view, &s);
	return check_block("read() of a file", &s, &view, w->buffer);
}

/* If the write failed, the CPU writes. */
static void end_write(struct worker *w, const struct span *s, bool ok)
{
	if (ok)
		race_change_end(record(s));
	else
		cpu_fill(w, s);
}

bool op_file_write(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	s.region = pick_file(w);
	lock_contents(&s);
	fill_block(w->buffer, &s,
		   race_change_begin(record(&s), RACE_LEAVES_WORDS));
	ok = pwrite(s.region->fd, w->buffer, block_size,
		    s.first * block_size) == (ssize_t)block_size;
	end_write(w, &s, ok);
	unlock_contents(&s);
	return ok;
}

/* Direct I/O that reads from tortured memory */
bool op_direct_out(struct worker *w)
{
	struct span s = pick_block(w);
	struct view view = view_open(&s);

	if (w->scratch < 0)
		return false;
	if (pwrite(w->scratch, span_address(&s), block_size, 0) !=
	    (ssize_t)block_size) {
		check_error("direct write", &view, &s);
		return false;
	}
	view_close(&view, &s);
	if (pread(w->scratch, w->buffer, block_size, 0) != (ssize_t)block_size)
		return false;
	return check_block("direct write", &s, &view, w->buffer);
}

/* Direct I/O that writes to tortured memory */
bool op_direct_in(struct worker *w)
{
	struct span s = pick_block(w);
	bool ok;

	if (w->scratch < 0)
		return false;
	lock_contents(&s);
	fill_block(w->buffer, &s,
		   race_change_begin(record(&s), RACE_LEAVES_WORDS));
	ok = pwrite(w->scratch, w->buffer, block_size, block_size) ==
	     (ssize_t)block_size &&
	     pread(w->scratch, span_address(&s), block_size, block_size) ==
	     (ssize_t)block_size;
	end_write(w, &s, ok);
	unlock_contents(&s);
	return ok;
}
