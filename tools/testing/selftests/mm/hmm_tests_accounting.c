// SPDX-License-Identifier: GPL-2.0-only
/* Accounting: device memory counts like any other memory. */
#define _GNU_SOURCE
#include <sys/stat.h>

#include "hmm_tests.h"

MIRROR_DATA(accounting, char group[160];);
BOTH_KINDS(accounting);

FIXTURE_SETUP(accounting)
{
	OPEN_DEVICES();
	ASSERT_EQ(0, area_map(&self->area, LARGE));
	area_advise(&self->area, MADV_NOHUGEPAGE);
}

FIXTURE_TEARDOWN(accounting)
{
	CLOSE_DEVICES();
	if (self->group[0])
		rmdir(self->group);
}

TEST_FILLED(accounting, device_memory_is_resident)
{
	ASSERT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(LARGE, to_device(device, area));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Pss"));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Anonymous"));
	EXPECT_EQ(0, smaps_pages(area->at, "Swap"));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	EXPECT_EQ(0, smaps_pages(area->at, "Rss"));
}

TEST_MIRROR(accounting, process_counts_device_memory)
{
	long before = rss_now();

	area_fill(area, 1);
	/* the buffer is memory of the process, too */
	memset(area->buffer, 1, LARGE * PAGE);
	ASSERT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(LARGE, to_device(device, area));
	EXPECT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_TRUE(rss_is(before + 2 * LARGE));
	ASSERT_EQ(LARGE, to_device(device, area));
	ASSERT_EQ(0, area_unmap(area));
	EXPECT_TRUE(rss_is(before + LARGE));
}

TEST_MIRROR(accounting, process_counts_holes_that_move)
{
	long before;

	memset(area->buffer, 1, LARGE * PAGE);
	before = rss_now();
	ASSERT_EQ(LARGE, to_device(device, area));
	EXPECT_TRUE(rss_is(before + LARGE));
	EXPECT_EQ(LARGE, smaps_pages(area->at, "Rss"));
	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	EXPECT_TRUE(rss_is(before));
}

static int group_write(const char *group, const char *file, const char *text)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return race_write_file(path, text);
}

static long group_read(const char *group, const char *file, const char *key)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", group, file);
	return race_read_number(path, key);
}

/* Store the path of a new group. Return: NULL, or the reason for a skip. */
static const char *group_make(char *group, size_t size)
{
	char line[256], root[128] = "";
	FILE *mounts = fopen("/proc/mounts", "r");

	while (mounts && !root[0] && fgets(line, sizeof(line), mounts))
		if (sscanf(line, "%*s %127s cgroup2 ", root) != 1 ||
		    !strstr(line, " cgroup2 "))
			root[0] = 0;
	if (mounts)
		fclose(mounts);
	if (!root[0])
		return "cgroup2 is not mounted";
	if (group_write(root, "cgroup.subtree_control", "+memory"))
		return "no memory controller in cgroup2";
	snprintf(group, size, "%s/hmm-tests-%d", root, getpid());
	if (!mkdir(group, 0755))
		return NULL;
	group[0] = 0;
	return "cannot make a control group";
}

/* The child continues in the group. Return: 0 or an error. */
static int group_fork(struct peer *child, const char *group)
{
	char text[12];

	if (peer_fork(child))
		return -1;
	if (child->pid)
		return 0;
	snprintf(text, sizeof(text), "%d", getpid());
	return group_write(group, "cgroup.procs", text);
}

static long charge_of(const char *group)
{
	return group_read(group, "memory.current", NULL) / (long)PAGE;
}

/* Charges are made in batches, and page tables are charged, too. */
static bool charge_is(const char *group, long expected)
{
	long slack = 128 + 64 * sysconf(_SC_NPROCESSORS_CONF);

	return labs(charge_of(group) - expected) <= slack;
}

/* In the child. LARGE is much more than the slack. */
static void charge_child(struct __test_metadata *_metadata, const char *group,
			 unsigned int node, struct area *area)
{
	struct mirror own;
	long before;

	ASSERT_EQ(0, mirror_open(&own, node));
	memset(area->buffer, 1, LARGE * PAGE);
	before = charge_of(group);
	area_fill(area, 1);
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(LARGE, to_device(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(0, to_system(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	ASSERT_EQ(LARGE, to_device(&own, area));
	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	EXPECT_TRUE(charge_is(group, before));
	/* migration of a hole charges a page */
	ASSERT_EQ(LARGE, to_device(&own, area));
	EXPECT_TRUE(charge_is(group, before + LARGE));
	_exit(0);
}

TEST_MIRROR(accounting, group_is_charged_for_device_memory)
{
	struct peer child;

	SKIP_FOR(group_make(self->group, sizeof(self->group)));
	ASSERT_EQ(0, group_fork(&child, self->group));
	if (!child.pid)
		charge_child(_metadata, self->group, variant->device, area);
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_TRUE(eventually(charge_is(self->group, 0)));
	EXPECT_EQ(0, rmdir(self->group));
}

/*
 * Device memory cannot be reclaimed, so a group that fills its limit with it
 * gets fewer pages than it asks for, or is killed by the OOM killer.
 */
TEST_MIRROR(accounting, group_limit_holds)
{
	long limit = LARGE / 2 * PAGE;
	struct peer child;
	struct mirror own;
	char text[24];
	int status;

	SKIP_FOR(group_make(self->group, sizeof(self->group)));
	snprintf(text, sizeof(text), "%ld", limit);
	ASSERT_EQ(0, group_write(self->group, "memory.max", text));
	group_write(self->group, "memory.swap.max", "0");
	ASSERT_EQ(0, group_fork(&child, self->group));
	if (!child.pid) {
		if (mirror_open(&own, variant->device))
			_exit(1);
		ask_to_device(&own, area, 0, LARGE);
		_exit(held(&own, area) < LARGE ? 0 : 2);
	}
	status = peer_end(&child);
	EXPECT_TRUE(!status ||
		    (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
	EXPECT_LT(0, group_read(self->group, "memory.events", "max"));
	EXPECT_TRUE(group_read(self->group, "memory.peak", NULL) <= limit);
	EXPECT_TRUE(eventually(charge_is(self->group, 0)));
	EXPECT_EQ(0, rmdir(self->group));
}

/* A child of the group asks once. Return: its status; 0 if it got @expected. */
static int fill_large_hole(const char *group, unsigned int node,
			   struct area *thp, long expected)
{
	struct peer child;
	struct mirror own;

	if (group_fork(&child, group))
		return -1;
	if (child.pid)
		return peer_end(&child);
	if (mirror_open(&own, node))
		_exit(1);
	ask_to_device(&own, thp, 0, THP_PAGES);
	_exit(held(&own, thp) == expected ? 0 : 2);
}

/* The process can do with small pages, so nobody is killed for a large one. */
TEST_MIRROR(accounting, group_limit_refuses_a_large_hole)
{
	struct area thp;
	char text[24];

	if (!thp_allowed())
		SKIP(return, "THP is disabled");
	SKIP_FOR(group_make(self->group, sizeof(self->group)));
	ASSERT_EQ(0, area_map(&thp, THP_PAGES));
	ASSERT_EQ(0, area_advise(&thp, MADV_HUGEPAGE));
	snprintf(text, sizeof(text), "%ld", (long)(THP_PAGES / 2 * PAGE));
	ASSERT_EQ(0, group_write(self->group, "memory.max", text));
	group_write(self->group, "memory.swap.max", "0");
	EXPECT_EQ(0, fill_large_hole(self->group, variant->device, &thp, 0));
	EXPECT_EQ(0, group_read(self->group, "memory.events", "oom_kill"));
	ASSERT_EQ(0, group_write(self->group, "memory.max", "max"));
	EXPECT_EQ(0, fill_large_hole(self->group, variant->device, &thp,
				     THP_PAGES));
	EXPECT_TRUE(eventually(charge_is(self->group, 0)));
	EXPECT_EQ(0, rmdir(self->group));
}
