// SPDX-License-Identifier: GPL-2.0-only
/* Runs the threads of a scenario, and reports their effects. */
#include <signal.h>

#include "hmm_migrate_race_ops.h"
#include "hmm_migrate_race_roles.h"

_Atomic unsigned int leaders;
static _Atomic unsigned int roles_without_effect;

/* Read all blocks when nothing moves any more. */
static void check_all(struct worker *w)
{
	for (unsigned int b = 0; b < nr_blocks; b++) {
		check_at_rest("CPU read at the end", b,
			      (uint32_t *)block_address(b));
		if (!race_wait_for(far_read_block(w, b) || control->complaints,
				   limit / 2))
			complain("block %u at rest: device read fails\n", b);
	}
}

/* Running the roles */

static void on_signal(int signal)
{
}

/*
 * A leader has a quota, and goes on until each role has had an effect. With few
 * iterations, one may have met only blocks that others held.
 */
static bool has_work(const struct worker *w, unsigned long quota)
{
	if (!quota)
		return leaders > 0;
	return w->tried < quota ||
	       ((roles_without_effect || lacks_swap()) && has_time());
}

static void do_work(struct worker *w)
{
	w->tried++;
	control->progress++;
	if (!w->role->op(w))
		return;
	w->done++;
	if (!atomic_exchange(&w->first->effect, true))
		roles_without_effect--;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	unsigned long quota = iterations * w->role->share / 100;

	if (w->role->share && !quota)
		quota = 1;
	while (has_work(w, quota))
		do_work(w);
	if (quota)
		leaders--;
	return NULL;
}

/* Signal all threads in turn; the handler does nothing. */
static void interrupt(struct worker *workers, unsigned int nr)
{
	unsigned int next = 0;

	while (leaders) {
		pthread_kill(workers[next++ % nr].thread, SIGUSR1);
		race_pause_ms(1);
	}
}

static unsigned int start_role(struct worker *workers, unsigned int nr,
			       const struct role *role)
{
	struct worker *first = &workers[nr];

	must_have(nr + role->threads <= MAX_WORKERS, "too many threads");
	for (unsigned int i = 0; i < role->threads; i++, nr++) {
		set_up_worker(&workers[nr], role, nr);
		workers[nr].first = first;
	}
	leaders += role->share ? role->threads : 0;
	roles_without_effect++;
	return nr;
}

unsigned int start_roles(struct worker *workers)
{
	struct sigaction action = { .sa_handler = on_signal };
	const struct role *const *set, *role;
	unsigned int nr = 0;

	sigaction(SIGUSR1, &action, NULL);
	started = race_now();
	for (set = scenario->sets; *set; set++)
		for (role = *set; role->op; role++)
			nr = start_role(workers, nr, role);
	for (role = scenario->roles; role->op; role++)
		nr = start_role(workers, nr, role);
	for (unsigned int i = 0; i < nr; i++)
		must_have(!pthread_create(&workers[i].thread, NULL, work,
					  &workers[i]), "thread");
	return nr;
}

/* Fewer attempts, on a slow machine, say nothing about a role. */
#define FAIR_TRIES	20

/* The threads of a role follow each other in the array. */
static unsigned int report_role(const struct worker *workers, unsigned int i,
				unsigned int nr, char *line, size_t room)
{
	const struct role *role = workers[i].role;
	unsigned long tried = 0, done = 0;

	for (; i < nr && workers[i].role == role; i++) {
		tried += workers[i].tried;
		done += workers[i].done;
	}
	snprintf(line, room, "%s %lu/%lu, ", role->name, done, tried);
	if (!done && tried >= FAIR_TRIES)
		complain("%s: no effect in %lu attempts\n", role->name, tried);
	return i;
}

static void report_roles(const struct worker *workers, unsigned int nr)
{
	char line[400] = "";
	size_t length;

	for (unsigned int i = 0; i < nr;) {
		length = strlen(line);
		i = report_role(workers, i, nr, line + length,
				sizeof(line) - length);
	}
	note("%s%lu words right, %lu not judged, %lu busy\n", line,
	     control->words, control->unjudged, control->busy);
}

void run_roles(void)
{
	static struct worker workers[MAX_WORKERS];
	unsigned int nr = start_roles(workers);

	if (scenario->flags & INTERRUPTS)
		interrupt(workers, nr);
	for (unsigned int i = 0; i < nr; i++)
		pthread_join(workers[i].thread, NULL);
	check_all(&workers[0]);
	report_roles(workers, nr);
	for (unsigned int i = 0; i < nr; i++)
		tear_down_worker(&workers[i]);
}
