// SPDX-License-Identifier: GPL-2.0-only
/* Operations that take references to the pages of tortured memory. */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"
#include "hmm_race_pins.h"

/*
 * FOLL_WRITE: gup_test warns of pins of the zero page, which are not counted.
 */
bool op_pin_short(struct worker *w)
{
	struct span s = pick_span(w);

	return gup_fd >= 0 &&
	       race_pin_briefly(gup_fd, span_address(&s), span_size(&s),
				&w->random, FOLL_WRITE);
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
		note("pinned by %d, the last to pin is %d; mapping barred %u times, unbarred %u\n",
		     gettid(), control->gup_holder, mapping(s)->bars.begun,
		     mapping(s)->bars.ended);
}

/* All of the region may move but the folios that are pinned. */
static void migrate_around(struct worker *w, const struct span *s)
{
	struct span all = huge_span();

	if (large_folios && s->region == all.region)
		migrate_unread(near_device(w), &all);
}

/* A read through the pin sees the writes of the CPU and of the device. */
static bool pin_block(struct worker *w, const struct span *s)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)span_address(s),
		.size = block_size,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			 (one_in(w, 2) ? PIN_LONGTERM_TEST_FLAG_USE_FAST : 0),
	};

	if (ioctl(gup_fd, PIN_LONGTERM_TEST_START, &pin))
		return false;
	control->gup_holder = gettid();
	check_pinned(w, "pinned pages", s);
	migrate_around(w, s);
	if (cpu_fill(w, s))
		check_pinned(w, "pinned pages after a CPU write", s);
	if (device_fill(w, far_device(w), s))
		check_pinned(w, "pinned pages after a device write", s);
	ioctl(gup_fd, PIN_LONGTERM_TEST_STOP);
	return true;
}

/*
 * gup_test has one set of pins for all its users, and drops them whenever a
 * file of it is closed. So main opens the only file, and the next user drops
 * the pins of one that was killed.
 */
bool op_pin_long(struct worker *w)
{
	struct span s = pick_block(w);
	bool pinned;
	int ret;

	if (gup_fd < 0)
		return false;
	if (one_in(w, 4))
		s.region = &regions[OWN_HUGE];
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

/* A pipe holds pages that the process has, or had. */
bool op_splice_out(struct worker *w)
{
	struct span s = pick_block(w);
	struct iovec part = { span_address(&s), block_size };
	struct view view = view_open(&s);
	ssize_t held = vmsplice(w->pipe[1], &part, 1, SPLICE_F_NONBLOCK);
	ssize_t got = 0, nr = 1;

	for (; got < held && nr > 0; got += nr)
		nr = read(w->pipe[0], (char *)w->buffer + got, held - got);
	if (held != (ssize_t)block_size || got != held) {
		if (held < 0)
			check_error("vmsplice", &view, &s);
		return false;
	}
	view_close(&view, &s);
	return check_block("read of spliced pages", &s, &view, w->buffer);
}
