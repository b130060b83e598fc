// SPDX-License-Identifier: GPL-2.0-only
/*
 * The meddler changes settings of mm at random, injects faults, and removes the
 * memory of devices.
 */
#include <glob.h>

#include "hmm_torture_meddler.h"
#include "hmm_torture_ops.h"

struct meddler {
	uint64_t random;
	bool our_swap;
};

#define PICK(m, array)	(array)[race_below(&(m)->random, ARRAY_SIZE(array))]

static bool meddle_thp(struct meddler *m)
{
	static const char *const modes[] = { "always", "always", "madvise",
					     "never" };
	static const char *const defrag[] = { "always", "defer", "madvise" };
	static const char *const shmem[] = { "always", "within_size", "never",
					     "advise" };

	race_write_file(THP "enabled", PICK(m, modes));
	race_write_file(THP "defrag", PICK(m, defrag));
	return !race_write_file(THP "shmem_enabled", PICK(m, shmem));
}

/* One of the sizes that the kernel has. */
static bool meddle_mthp(struct meddler *m)
{
	static const char *const modes[] = { "always", "inherit", "never" };
	glob_t sizes = {};
	bool ok = false;
	size_t i;

	if (!glob(THP "hugepages-*kB/enabled", 0, NULL, &sizes)) {
		i = race_below(&m->random, sizes.gl_pathc);
		ok = !race_write_file(sizes.gl_pathv[i], PICK(m, modes));
	}
	globfree(&sizes);
	return ok;
}

static bool meddle_split(struct meddler *m)
{
	return !race_write_file(DEBUG "split_huge_pages", "1");
}

static bool meddle_ksm(struct meddler *m)
{
	static const char *const runs[] = { "1", "1", "1", "0", "2" };

	return !race_run_ksm(PICK(m, runs));
}

static bool meddle_compact(struct meddler *m)
{
	return !race_write_file("/proc/sys/vm/compact_memory", "1");
}

static bool meddle_caches(struct meddler *m)
{
	static const char *const kinds[] = { "1", "2", "3" };

	return !race_write_file("/proc/sys/vm/drop_caches", PICK(m, kinds));
}

/* In regions; 0: none. */
static void pick_limit(struct meddler *m, char *text, size_t room)
{
	static const unsigned int limits[] = { 0, 0, 32, 20, 14, 10 };
	size_t limit = PICK(m, limits) * region_size;

	if (limit)
		snprintf(text, room, "%zu", limit);
	else
		snprintf(text, room, "max");
}

static bool meddle_limit(struct meddler *m)
{
	char high[24], max[24];

	pick_limit(m, high, sizeof(high));
	pick_limit(m, max, sizeof(max));
	race_write_file(MEMCG "/work/memory.high", high);
	return !race_write_file(MEMCG "/work/memory.max", max);
}

static bool meddle_reclaim(struct meddler *m)
{
	char size[24];

	snprintf(size, sizeof(size), "%zu", 2 * region_size);
	return !race_write_file(MEMCG "/work/memory.reclaim", size);
}

/* For a moment, allocations of all threads with make-it-fail may fail. */
static bool meddle_inject(struct meddler *m)
{
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	static const char *const rates[] = { "1", "5", "20" };
	const char *kind = PICK(m, kinds);
	char path[96];

	if (!can_inject)
		return true;
	snprintf(path, sizeof(path), DEBUG "%s/probability", kind);
	control->injections.begun++;
	race_write_file(path, PICK(m, rates));
	race_pause_ms(20 + race_below(&m->random, 300));
	race_write_file(path, "0");
	/* a thread that failed has judged its error by now, or looks again */
	race_pause_ms(5);
	control->injections.ended++;
	return true;
}

static bool meddle_swap(struct meddler *m)
{
	bool off;

	if (!m->our_swap)
		return true;
	off = !swapoff(RACE_SWAP_DEVICE);
	race_pause_ms(race_below(&m->random, 100));
	swapon(RACE_SWAP_DEVICE, 0);
	return off;
}

static bool meddle_unplug(struct meddler *m)
{
	unsigned int nr = race_below(&m->random, DEVICES);
	bool done;
	int fd;

	if (!own_driver || !have_device[nr])
		return true;
	fd = race_open_device(nr);
	if (fd < 0)
		return false;
	done = !race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1, NULL);
	close(fd);
	return done;
}

static const struct meddle {
	const char *name;
	bool (*run)(struct meddler *m);
	unsigned int weight;
} meddles[] = {
	{ "THP setting", meddle_thp, 4 },
	{ "mTHP setting", meddle_mthp, 4 },
	{ "split of huge pages", meddle_split, 1 },
	{ "KSM setting", meddle_ksm, 3 },
	{ "compaction", meddle_compact, 3 },
	{ "drop_caches", meddle_caches, 1 },
	{ "memcg limit", meddle_limit, 4 },
	{ "memcg reclaim", meddle_reclaim, 3 },
	{ "injection", meddle_inject, 4 },
	{ "swapoff", meddle_swap, 1 },
	{ "unplug", meddle_unplug, 2 },
};

static size_t pick_meddle(struct meddler *m)
{
	unsigned int sum = 0, at;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(meddles); i++)
		sum += meddles[i].weight;
	at = race_below(&m->random, sum);
	for (i = 0; at >= meddles[i].weight; i++)
		at -= meddles[i].weight;
	return i;
}

static void meddle_once(struct meddler *m, size_t i)
{
	race_pause_ms(10 + race_below(&m->random, 150));
	if (!is_wanted(meddles[i].name))
		return;
	control->meant[i]++;
	control->meddled[i] += meddles[i].run(m);
}

/* Each once, in random order, so that a short run has all of them, too. */
static void meddle_with_all(struct meddler *m)
{
	size_t order[ARRAY_SIZE(meddles)];

	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		size_t at = race_below(&m->random, i + 1);

		order[i] = order[at];
		order[at] = i;
	}
	for (size_t i = 0; i < ARRAY_SIZE(order) && !control->over; i++)
		meddle_once(m, order[i]);
}

void meddler_process(bool our_swap)
{
	struct meddler m = {
		.random = race_mix(options.seed + 99),
		.our_swap = our_swap,
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	meddle_with_all(&m);
	while (!control->over)
		meddle_once(&m, pick_meddle(&m));
	_exit(KSFT_PASS);
}

/* Only threads that ask for it fail, even if they could wait for memory. */
void set_up_injection(void)
{
	static const char *const settings[][2] = {
		{ "verbose", "0" }, { "task-filter", "Y" }, { "times", "-1" },
		{ "probability", "0" }, { "ignore-gfp-wait", "N" },
		{ "ignore-gfp-highmem", "N" }, { "min-order", "0" },
	};
	static const char *const kinds[] = { "failslab", "fail_page_alloc" };
	char path[96];

	can_inject = is_wanted("injection") &&
		     !access("/proc/self/fail-nth", W_OK) &&
		     !access(DEBUG "failslab/probability", W_OK);
	for (size_t k = 0; can_inject && k < ARRAY_SIZE(kinds); k++)
		for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
			snprintf(path, sizeof(path), DEBUG "%s/%s", kinds[k],
				 settings[i][0]);
			race_write_file(path, settings[i][1]);
		}
}

void end_injection(void)
{
	if (!can_inject)
		return;
	race_write_file(DEBUG "failslab/probability", "0");
	race_write_file(DEBUG "fail_page_alloc/probability", "0");
}

void hurry_khugepaged(void)
{
	race_write_file(THP "khugepaged/scan_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/alloc_sleep_millisecs", "20");
	race_write_file(THP "khugepaged/pages_to_scan", "4096");
}

/* A statistic over random choices: fewer attempts say nothing. */
#define FAIR_TRIES	20

static bool meddle_lacks_effect(size_t i)
{
	return !control->meddled[i] && control->meant[i] >= FAIR_TRIES;
}

bool meddler_lacks_effect(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(meddles); i++)
		if (meddle_lacks_effect(i))
			return true;
	return false;
}

void report_meddles(void)
{
	char line[400] = "";

	for (size_t i = 0; i < ARRAY_SIZE(meddles); i++) {
		snprintf(line + strlen(line), sizeof(line) - strlen(line),
			 "%s %lu/%lu, ", meddles[i].name, control->meddled[i],
			 control->meant[i]);
		if (meddle_lacks_effect(i))
			complain(EFFECT, "%s: no effect in %lu attempts\n",
				 meddles[i].name, control->meant[i]);
	}
	note("%s\n", line);
}
