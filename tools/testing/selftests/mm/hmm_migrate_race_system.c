// SPDX-License-Identifier: GPL-2.0-only
/* Sets up the system for a scenario, and checks it afterwards. */
#include <sys/resource.h>
#include <sys/stat.h>

#include "hmm_migrate_race_ops.h"
#include "hmm_migrate_race_system.h"

#define MEMCG		"/sys/fs/cgroup/hmm-migrate-race"
/* Slab may outlive its process. */
#define MEMCG_REST	(512L << 10)

/* A quarter more than the area. */
static const char *memcg_begin(void)
{
	char max[24];

	snprintf(max, sizeof(max), "%zu", BANKS * bank_size * 5 / 4);
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/memory.max", max))
		return "no memory controller";
	return NULL;
}

/* Statistics are flushed periodically, and pages are freed late. */
static long memcg_settles(const char *file, const char *key, long most)
{
	long value = -1;

	race_wait_for((value = race_read_number(file, key)) >= 0 &&
		      value <= most, limit / 2);
	return value;
}

/* A lower limit drains the charges that the CPUs keep in stock. */
static void memcg_end(void)
{
	long anon, rest, kills;

	anon = memcg_settles(MEMCG "/memory.stat", "anon", 0);
	if (anon)
		complain("%ld bytes of anonymous memory are left in the memcg\n",
			 anon);
	kills = race_read_number(MEMCG "/memory.events", "oom_kill");
	if (kills)
		complain("%ld processes killed for memory\n", kills);
	note("memcg: peak %ld, %ld times over the limit\n",
	     race_read_number(MEMCG "/memory.peak", NULL),
	     race_read_number(MEMCG "/memory.events", "max"));
	race_write_file(MEMCG "/memory.max", "512K");
	rest = memcg_settles(MEMCG "/memory.current", NULL, MEMCG_REST);
	if (rest < 0 || rest > MEMCG_REST)
		complain("%ld bytes are still charged to the memcg\n", rest);
	must(!rmdir(MEMCG), "removal of the memcg");
}

static bool ksm_has_merged(void)
{
	return race_read_number(RACE_KSM "pages_sharing", NULL) > 0;
}

/* KSM must have merged pages before the race, and goes on during it. */
void ksm_enter(void)
{
	struct worker w = {};

	for (unsigned int i = 0; i < BANKS; i++)
		must_have(!madvise(banks[i], bank_size, MADV_MERGEABLE),
			  "MADV_MERGEABLE");
	set_up_worker(&w, NULL, 0);
	for (unsigned int i = 0; i < 2 * nr_blocks; i++)
		op_write_same(&w);
	if (!race_wait_for(ksm_has_merged(), limit / 2))
		complain("KSM merges no page\n");
	tear_down_worker(&w);
}

/* Return: NULL, or why the scenario cannot be run. */
const char *begin_outside(bool *our_swap)
{
	const char *why = NULL;

	*our_swap = false;
	if (scenario->flags & NEEDS_SWAP)
		why = race_swap_begin(our_swap);
	if (!why && scenario->flags & NEEDS_MEMCG)
		why = memcg_begin();
	if (!why && scenario->flags & NEEDS_KSM) {
		if (access(RACE_KSM "run", W_OK))
			why = "no KSM";
		else
			race_run_ksm("1");
	}
	if (!why && scenario->flags & NEEDS_GUP &&
	    access("/sys/kernel/debug/gup_test", W_OK))
		why = "no gup_test in debugfs";
	return why;
}

void end_outside(bool our_swap)
{
	if (scenario->flags & NEEDS_MEMCG)
		memcg_end();
	if (scenario->flags & NEEDS_KSM)
		race_run_ksm("2");
	race_swap_end(our_swap);
}

void enter(void)
{
	struct rlimit files = { 8192, 8192 };

	setrlimit(RLIMIT_NOFILE, &files);
	if (scenario->flags & NEEDS_MEMCG)
		must_have(!race_write_file(MEMCG "/cgroup.procs", "0"),
			  "move to the memcg");
	if (scenario->flags & NEEDS_GUP) {
		gup_fd = open("/sys/kernel/debug/gup_test", O_RDWR);
		must_have(gup_fd >= 0, "open of gup_test");
	}
}

struct usage usage_now(void)
{
	return (struct usage) {
		.mapped = race_read_number("/proc/self/smaps_rollup", "Rss"),
		.counted = race_read_number("/proc/self/status", "VmRSS"),
	};
}

void check_usage(const struct usage *before)
{
	/* stacks of threads and the like remain */
	long rest = BANKS * bank_size / 4 / 1024;
	struct usage now = usage_now();

	if (before->mapped < 0 || before->counted < 0)
		complain("the process's memory cannot be read\n");
	if (now.mapped > before->mapped + rest ||
	    now.counted > before->counted + rest)
		complain("RSS was %ld KiB (by counter %ld), is %ld (%ld)\n",
			 before->mapped, before->counted, now.mapped,
			 now.counted);
}
