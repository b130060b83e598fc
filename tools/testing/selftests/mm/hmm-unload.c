// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module of the dummy device (lib/test_hmm.c) is removed while processes
 * have memory on its devices. First, all pages return to system memory.
 *
 * An open file of a device would keep the module. So the processes read the
 * place of their pages from the device before they close the file, and only
 * from the kernel afterwards.
 *
 * Each device has three processes:
 *   - one does not access its memory
 *   - one uses all of it, from the start of the removal
 *   - one gave the device exclusive access to half of it
 *
 * Afterwards the module is loaded again with the same parameters, from
 * MODULE_FILE. Without this file there is one test only, and the module stays
 * removed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "../kselftest_harness.h"
#include "hmm_test_common.h"

/* A debug kernel in an emulator takes its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

#define MODULE		"test_hmm"
#define MODULE_FILE	"/lib/modules/" MODULE ".ko"
#define MODULE_DIR	"/sys/module/" MODULE

#define DEVICES		4
#define HALF		259
#define ALL		(2 * HALF)

enum use {
	UNUSED,
	USED_BY_THE_CPU,
	EXCLUSIVE,
	USES,
};

/**
 * struct user - a process with memory on a device
 * @peer: the process
 * @device: the number of the device
 * @use: the use of the memory
 * @area: the memory
 * @rss: the pages that the process had before
 */
struct user {
	struct peer peer;
	unsigned int device;
	enum use use;
	struct area area;
	long rss;
};

FIXTURE(removal)
{
	struct user users[DEVICES * USES];
	size_t nr;
	atomic_bool *gone;	/* the module, shared with the processes */
	char parameters[128];
};

/* The module */

static bool module_loaded(void)
{
	return !access(MODULE_DIR "/refcnt", F_OK);
}

static bool module_can_be_loaded(void)
{
	return !access(MODULE_FILE, R_OK);
}

static int module_load(const char *parameters)
{
	int fd = open(MODULE_FILE, O_RDONLY | O_CLOEXEC);
	int ret = syscall(SYS_finit_module, fd, parameters, 0) ? -errno : 0;

	close(fd);
	return ret;
}

static int module_remove(void)
{
	return syscall(SYS_delete_module, MODULE, O_NONBLOCK) ? -errno : 0;
}

static void module_parameters(char *parameters, size_t size)
{
	long addr[2];

	addr[0] = race_read_number(MODULE_DIR "/parameters/spm_addr_dev0",
				   NULL);
	addr[1] = race_read_number(MODULE_DIR "/parameters/spm_addr_dev1",
				   NULL);
	snprintf(parameters, size, "spm_addr_dev0=%ld spm_addr_dev1=%ld",
		 addr[0], addr[1]);
}

static bool device_exists(unsigned int nr)
{
	char path[48];

	snprintf(path, sizeof(path), "/sys/class/misc/hmm_dmirror%u", nr);
	return !access(path, F_OK);
}

/* Return: true if memory of a device is still in /proc/iomem. */
static bool memory_is_claimed(void)
{
	FILE *file = fopen("/proc/iomem", "r");
	char line[160];
	bool found = !file;

	while (!found && fgets(line, sizeof(line), file))
		found = strstr(line, "hmm_dmirror");
	if (file)
		fclose(file);
	return found;
}

/* The processes */

static void give_exclusively(struct __test_metadata *_metadata,
			     struct mirror *m, struct area *area)
{
	size_t i;

	ASSERT_EQ(0, make_exclusive_part(m, area, 0, HALF));
	for (i = 0; i < HALF; i++)
		ASSERT_EQ(-EPERM, check_exclusive(m, area, i, 1));
}

/* Fill memory and move it to the device. */
static void user_begin(struct __test_metadata *_metadata, struct user *user)
{
	struct area *area = &user->area;
	struct mirror m;

	ASSERT_EQ(0, mirror_open(&m, user->device));
	ASSERT_EQ(0, area_map(area, ALL));
	memset(area->buffer, 1, ALL * PAGE);
	/* A fault brings a large folio back as a whole, not a half of it. */
	if (user->use == EXCLUSIVE)
		area_advise(area, MADV_NOHUGEPAGE);
	user->rss = rss_now();
	area_fill(area, 1);
	ASSERT_EQ(ALL, to_device(&m, area));
	if (user->use == EXCLUSIVE)
		give_exclusively(_metadata, &m, area);
	ASSERT_EQ(HALF, held_part(&m, area, HALF, HALF));
	mirror_close(&m);
}

/* Read and write each page, without a change of the contents. */
static long use_once(struct area *area)
{
	volatile uint64_t *word;
	long wrong = 0;
	size_t i;

	for (i = 0; i < ALL; i++) {
		word = (void *)area_page(area, i);
		wrong += *word != contents_word(1, i, 0);
		*word = contents_word(1, i, 0);
	}
	return wrong;
}

/* The removal deletes the node of a device first, and then evicts its pages. */
static void use_during_removal(struct __test_metadata *_metadata,
			       struct user *user, atomic_bool *gone)
{
	long wrong = 0;

	while (!*gone && device_exists(user->device))
		race_pause_ms(1);
	do
		wrong += use_once(&user->area);
	while (!*gone);
	EXPECT_EQ(0, wrong);
}

/*
 * Return: the number of pages from @first on that are not present. They are
 * read at once; on an error all count as not present.
 */
static long pages_away(const struct area *area, size_t first)
{
	size_t nr = ALL - first, size = nr * sizeof(uint64_t), i;
	off_t at = (uintptr_t)area_page(area, first) / PAGE * sizeof(uint64_t);
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entries[ALL];
	long away = 0;

	if (fd < 0 || pread(fd, entries, size, at) != (ssize_t)size)
		memset(entries, 0, sizeof(entries));
	close(fd);
	for (i = 0; i < nr; i++)
		away += !(entries[i] & PAGEMAP_PRESENT);
	return away;
}

static void user_end(struct __test_metadata *_metadata, struct user *user)
{
	struct area *area = &user->area;

	/* exclusive pages are in system memory, but not present until a fault */
	EXPECT_EQ(0, pages_away(area, user->use == EXCLUSIVE ? HALF : 0));
	EXPECT_TRUE(rss_is(user->rss + ALL));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	area_fill(area, 2);
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, pages_away(area, 0));
	EXPECT_EQ(ALL, smaps_pages(area->at, "Anonymous"));
	EXPECT_TRUE(rss_is(user->rss + ALL));
}

static void user_run(struct __test_metadata *_metadata, struct user *user,
		     atomic_bool *gone)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	user_begin(_metadata, user);
	ASSERT_TRUE(peer_tell(&user->peer));
	if (user->use == USED_BY_THE_CPU)
		use_during_removal(_metadata, user, gone);
	ASSERT_TRUE(peer_hear(&user->peer));
	user_end(_metadata, user);
	_exit(0);
}

static void user_start(struct __test_metadata *_metadata, struct user *user,
		       atomic_bool *gone)
{
	ASSERT_EQ(0, peer_fork(&user->peer));
	if (!user->peer.pid)
		user_run(_metadata, user, gone);
	ASSERT_TRUE(peer_hear(&user->peer));
}

/* The tests */

FIXTURE_SETUP(removal)
{
	size_t i;

	if (geteuid() || !module_loaded())
		SKIP(return, MODULE " is not loaded as a module");
	module_parameters(self->parameters, sizeof(self->parameters));
	self->gone = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)self->gone);
	for (i = 0; i < DEVICES * USES; i++) {
		struct user *user = &self->users[self->nr];

		user->device = i / USES;
		user->use = i % USES;
		self->nr += device_exists(user->device);
	}
	ASSERT_NE(0, self->nr);
}

FIXTURE_TEARDOWN(removal)
{
	if (!module_loaded() && module_can_be_loaded())
		EXPECT_EQ(0, module_load(self->parameters));
}

static void remove_while_in_use(struct __test_metadata *_metadata,
				FIXTURE_DATA(removal) *self)
{
	unsigned int nr;
	size_t i;

	*self->gone = false;
	for (i = 0; i < self->nr; i++)
		user_start(_metadata, &self->users[i], self->gone);
	ASSERT_EQ(0, module_remove());
	*self->gone = true;
	EXPECT_FALSE(module_loaded());
	EXPECT_FALSE(memory_is_claimed());
	for (nr = 0; nr < DEVICES; nr++) {
		EXPECT_FALSE(device_exists(nr));
		EXPECT_EQ(-1, race_open_device(nr));
	}
	for (i = 0; i < self->nr; i++) {
		EXPECT_TRUE(peer_tell(&self->users[i].peer));
		EXPECT_EQ(0, peer_end(&self->users[i].peer));
	}
}

TEST_F(removal, removal_brings_every_page_back)
{
	remove_while_in_use(_metadata, self);
}

TEST_F(removal, removal_leaves_nothing_behind)
{
	unsigned int round;

	if (!module_can_be_loaded())
		SKIP(return, "no " MODULE_FILE " to load again");
	for (round = 0; round < 2; round++) {
		remove_while_in_use(_metadata, self);
		ASSERT_EQ(0, module_load(self->parameters));
	}
}

TEST_HARNESS_MAIN
