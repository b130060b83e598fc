// SPDX-License-Identifier: GPL-2.0-only
/* Children that check the memory that they inherit. */
#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

/* Files of devices that children opened and the parent shares. */
static _Atomic unsigned int devices_opened;

/* The state of a child: a copy of the record, and keys of its own. */
struct childhood {
	struct race_record record;
	struct region region;
	struct span s;
	struct view view;
	int near, far;
	bool huge;			/* move all of the region */
};

static bool child_check(struct worker *w, const char *who,
			struct childhood *c)
{
	bool ok = true;

	if (!try_copy(w->buffer, span_address(&c->s), block_size)) {
		check_error(who, &c->view, &c->s);
		return false;
	}
	for (unsigned int i = 0; i < block_pages; i++)
		ok &= check_page(who, &c->s, &c->record, &c->view, i,
				 w->buffer + i * page_words);
	return ok;
}

/*
 * With a huge page for which the device has no folio, the parent's mapping of it
 * is split, too.
 */
static void child_migrate_huge(struct worker *w, struct childhood *c)
{
	struct span all = { &c->region, 0, NR_BLOCKS };

	if (one_in(w, 2))
		race_device(c->near, HMM_DMIRROR_FLAGS, NULL,
			    HMM_DMIRROR_FLAG_FAIL_ALLOC, NULL);
	migrate_unread(c->near, &all);
}

static void child_migrate(struct worker *w, struct childhood *c)
{
	if (c->near >= 0 && c->huge)
		child_migrate_huge(w, c);
	else if (c->near >= 0)
		race_device(c->near, HMM_DMIRROR_MIGRATE_TO_DEV,
			    span_address(&c->s), block_pages, w->buffer);
}

/* The child's own words, which are illegal for the parent, and vice versa. */
static void child_write(struct worker *w, struct childhood *c)
{
	uint32_t number = ++c->record.begun;

	c->region.id ^= child_salt(getpid());
	c->record.leaves[number % RACE_RING] = RACE_LEAVES_WORDS;
	fill_block(w->buffer, &c->s, number);
	if (c->far < 0 || one_in(w, 2) ||
	    race_device(c->far, HMM_DMIRROR_WRITE, span_address(&c->s),
			block_pages, w->buffer))
		insist("CPU write of a child",
		       try_copy(span_address(&c->s), w->buffer, block_size));
	c->view.win.floor = number;
	c->view.win.begun = number;
}

static int child_device(struct worker *w, unsigned int nr)
{
	if (!own_driver && devices_opened++ > 16)
		return -1;
	return have_device[nr] ? race_open_device(nr) : -1;
}

/* A device file works only for the process that opened it. */
static void child_inherited(struct worker *w, const struct span *s)
{
	if (!own_driver)
		return;
	if (!race_device(far_device(w), HMM_DMIRROR_READ, span_address(s),
			 block_pages, w->buffer) || errno != EBADF)
		complain(ERRORS, "a child uses its parent's device: %s\n",
			 strerror(errno));
}

static int child(struct worker *w, struct childhood *c)
{
	struct span s = pick_block(w);
	bool ok;

	c->near = c->huge || one_in(w, 2) ?
		  child_device(w, 2 * below(w, 2)) : -1;
	c->far = one_in(w, 2) ? child_device(w, 1 + 2 * below(w, 2)) : -1;
	if (c->huge || one_in(w, 2))
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

/*
 * Under contents and with the mapping, so that the child inherits them as is.
 */
static pid_t fork_now(struct worker *w, const struct span *s, bool huge)
{
	struct childhood c;
	pid_t pid;

	c.huge = huge;
	c.region = *s->region;
	c.s = (struct span) { &c.region, s->first, 1 };
	c.view = view_open(s);
	view_close(&c.view, s);
	memcpy(&c.record, record(s), sizeof(c.record));
	pid = syscall(SYS_clone, SIGCHLD | (own_driver ? 0 : CLONE_FILES),
		      0, 0, 0, 0);
	if (!pid) {
		w->injected = false;	/* only the parent is */
		_exit(child(w, &c));
	}
	return pid;
}

/* A later write by a device of the parent does not change the child's copy. */
bool op_fork_child(struct worker *w)
{
	struct span s = pick_block(w);
	pid_t pid = -1;
	bool huge;

	if (!is_own(s.region))
		s.region = &regions[below(w, NR_OWN)];
	huge = s.region->nr == OWN_HUGE && large_folios && !one_in(w, 4) &&
	       make_huge(w);
	lock_contents(&s);
	if (get_mapping(&s)) {
		pid = fork_now(w, &s, huge);
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
