// SPDX-License-Identifier: GPL-2.0-only
/*
 * What must not be left after a torture: charges of the cgroup, pins, isolated
 * pages and used memory.
 */
#include <glob.h>

#include "hmm_torture_rest.h"

static const char *const usage_keys[USAGE_KEYS] = {
	"MemFree", "Cached", "Buffers", "AnonPages", "Shmem", "Unevictable",
	"SReclaimable", "SUnreclaim", "KernelStack", "PageTables", "Percpu",
	"VmallocUsed",
};

const char *set_up_cgroup(void)
{
	race_write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(MEMCG, 0755) && errno != EEXIST)
		return "no cgroup2 in /sys/fs/cgroup";
	if (race_write_file(MEMCG "/cgroup.subtree_control", "+memory"))
		return "no memory controller";
	if ((mkdir(MEMCG "/work", 0755) && errno != EEXIST) ||
	    (mkdir(MEMCG "/fill", 0755) && errno != EEXIST))
		return "no cgroups of its own";
	return NULL;
}

/*
 * Page cache of the file system's own: each of four CPUs holds the buffers that
 * it used last, 16 of them, and each may keep a page. And slab that outlives
 * processes.
 */
#define CHARGE_FILE	(256L << 10)
#define CHARGE_REST	(2L << 20)

static void check_stat(const char *group, const char *key, long most)
{
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/memory.stat", group);
	if (!race_wait_for(race_read_number(path, key) <= most,
			   options.patience))
		complain(CHARGES, "memory.stat of %s: %s is %ld\n", group, key,
			 race_read_number(path, key));
}

static long charge_of(const char *group)
{
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/memory.current", group);
	return race_read_number(path, NULL);
}

static bool charge_is_small(const char *group)
{
	long charge = charge_of(group);

	return charge >= 0 && charge <= CHARGE_REST;
}

static void set_group(const char *group, const char *file, const char *text)
{
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/%s", group, file);
	race_write_file(path, text);
}

/*
 * Dirty pages stay, and so do pages of the swap cache whose entry was freed
 * while they were locked: reclaim has to look more than once.
 */
static bool cache_is_small(const char *group)
{
	char path[96];

	sync();
	race_write_file("/proc/sys/vm/drop_caches", "1");
	set_group(group, "memory.reclaim", "64M");
	snprintf(path, sizeof(path), MEMCG "%s/memory.stat", group);
	return race_read_number(path, "file") <= CHARGE_FILE;
}

static void show_cache(const char *group)
{
	static const char *const keys[] = {
		"file", "file_dirty", "file_writeback", "swapcached",
		"inactive_anon", "inactive_file", "active_file",
	};
	char path[96];

	snprintf(path, sizeof(path), MEMCG "%s/memory.stat", group);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		note("memory.stat of %s: %s is %ld\n", group, keys[i],
		     race_read_number(path, keys[i]));
}

static void check_cache(const char *group)
{
	if (race_wait_for(cache_is_small(group), options.patience))
		return;
	complain(CHARGES, "page cache is still charged to %s\n", group);
	show_cache(group);
}

/* A lower limit drains the charges that the CPUs keep in stock. */
void check_group(const char *group)
{
	char path[96];

	set_group(group, "memory.reclaim", "64M");
	set_group(group, "memory.max", "1M");
	check_stat(group, "anon", 0);
	check_stat(group, "shmem", 0);
	check_stat(group, "file_mapped", 0);
	check_stat(group, "unevictable", 0);
	check_cache(group);
	if (!race_wait_for(charge_is_small(group), options.patience))
		complain(CHARGES, "%ld bytes are still charged to %s\n",
			 charge_of(group), group);
	note("%s: %ld bytes charged at the end\n", group, charge_of(group));
	snprintf(path, sizeof(path), MEMCG "%s", group);
	if (rmdir(path))
		complain(CHARGES, "removal of %s: %s\n", path,
			 strerror(errno));
}

/* Memory and counters of the system */

/* Free empty slabs, and freed objects that KASAN keeps. */
static void shrink_slabs(void)
{
	glob_t found = {};

	glob("/sys/kernel/slab/*/shrink", 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc; i++)
		race_write_file(found.gl_pathv[i], "1");
	globfree(&found);
}

struct usage usage_now(void)
{
	struct usage usage;

	for (int i = 0; i < 3; i++) {
		race_write_file("/proc/sys/vm/drop_caches", "3");
		shrink_slabs();
		race_pause_ms(100);
	}
	for (size_t i = 0; i < USAGE_KEYS; i++)
		usage.kib[i] = race_read_number("/proc/meminfo", usage_keys[i]);
	return usage;
}

/* In KiB: partial slabs, and page tables of the kernel */
#define FREE_REST	(24L << 10)

static bool memory_is_free(const struct usage *before, struct usage *after)
{
	*after = usage_now();
	return before->kib[0] - after->kib[0] <= FREE_REST;
}

void check_free(const struct usage *before)
{
	struct usage after;
	bool ok = race_wait_for(memory_is_free(before, &after),
				options.patience);

	note("free memory: %ld KiB before, %ld after\n", before->kib[0],
	     after.kib[0]);
	if (ok)
		return;
	complain(COUNTERS, "%ld KiB of memory are lost\n",
		 before->kib[0] - after.kib[0]);
	for (size_t i = 1; i < USAGE_KEYS; i++)
		note("%s: %ld KiB before, %ld after\n", usage_keys[i],
		     before->kib[i], after.kib[i]);
}

static bool counter_is(const char *key, long wanted)
{
	race_write_file("/proc/sys/vm/stat_refresh", "1");
	return race_read_number("/proc/vmstat", key) == wanted;
}

/* The counters of the CPUs are added up periodically. */
static bool settles_at(const char *key, long wanted)
{
	return race_wait_for(counter_is(key, wanted), options.patience);
}

void check_counters(void)
{
	static const char *const zero[] = {
		"nr_isolated_anon", "nr_isolated_file", "nr_mlock",
	};
	const char *released = "nr_foll_pin_released";

	for (size_t i = 0; i < ARRAY_SIZE(zero); i++)
		if (!settles_at(zero[i], 0))
			complain(COUNTERS, "%s is %ld\n", zero[i],
				 race_read_number("/proc/vmstat", zero[i]));
	if (!settles_at(released, race_read_number("/proc/vmstat",
						   "nr_foll_pin_acquired")))
		complain(COUNTERS, "pins: %ld released of %ld\n",
			 race_read_number("/proc/vmstat", released),
			 race_read_number("/proc/vmstat",
					  "nr_foll_pin_acquired"));
}
