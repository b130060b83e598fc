// SPDX-License-Identifier: GPL-2.0-only
/* Processes, files and devices go away, and memory remains. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(leaving)

/* Move 32 MiB to the device, and unmap them. */
static bool use_device_memory(struct mirror *m)
{
	size_t pages = (32UL << 20) / PAGE;
	struct area area;
	long there;

	if (area_map(&area, pages))
		return false;
	there = to_device(m, &area);
	area_unmap(&area);
	munmap(area.buffer, area_size(&area));
	return there == (long)pages;
}

/* The dummy device keeps the contents of private memory in RAM. */
TEST_MIRROR(leaving, ram_behind_device_memory_is_freed)
{
	long before;
	int i;

	ASSERT_TRUE(use_device_memory(device));
	before = pages_free();
	ASSERT_LT(0, before);
	for (i = 0; i < 4; i++)
		ASSERT_TRUE(use_device_memory(device));
	/* half of the 128 MiB that a leak would take */
	EXPECT_GT((long)((64UL << 20) / PAGE), before - pages_free());
}

TEST_MIRROR(leaving, exit_gives_device_memory_back)
{
	struct area large;
	struct peer child;
	struct mirror own;
	unsigned int i;

	ASSERT_EQ(0, area_map(&large, LARGE));
	for (i = 0; i < MORE_THAN_A_DEVICE / (LARGE * PAGE); i++) {
		ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
		if (!child.pid) {
			ASSERT_EQ(LARGE, to_device(&own, &large));
			_exit(0);
		}
		ASSERT_EQ(0, peer_end(&child));
	}
	area_fill(&large, 1);
	ASSERT_EQ(LARGE, to_device(device, &large));
	EXPECT_EQ(0, cpu_wrong(&large, 1));
}

static void move_forever(struct mirror *m, struct area *area,
			 struct peer *parent)
{
	area_fill(area, 1);
	peer_tell(parent);
	for (;;) {
		ask_to_device(m, area, 0, area->pages);
		ask_to_system(m, area, 0, area->pages);
		make_exclusive(m, area);
	}
}

TEST_MIRROR(leaving, killed_process_leaves_the_device_usable)
{
	struct peer child;
	struct mirror own;
	unsigned int i;

	area_fill(area, 2);
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
		if (!child.pid)
			move_forever(&own, area, &child);
		ASSERT_TRUE(peer_hear(&child));
		usleep(10000 * i);
		kill(child.pid, SIGKILL);
		EXPECT_EQ(SIGKILL, WTERMSIG(peer_end(&child)));
		ASSERT_EQ(SOME, to_device(device, area));
		EXPECT_EQ(0, device_wrong(device, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
	}
}

TEST_MIRROR(leaving, exec_leaves_the_device_usable)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&own, area));
		execlp("true", "true", NULL);
		_exit(127);
	}
	EXPECT_EQ(0, peer_end(&child));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(leaving, memory_outlives_the_file)
{
	mirror_close(device);
	EXPECT_EQ(0, cpu_wrong_part(area, 0, SOME / 2, 1));
	ASSERT_EQ(0, mirror_open(device, variant->device));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(leaving, closing_one_of_two_files_keeps_memory)
{
	struct mirror first;

	ASSERT_EQ(0, mirror_open(&first, variant->device));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&first, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	mirror_close(&first);
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

static void do_nothing(int number)
{
}

/* Eviction waits for a page in use, and a signal ends the wait. */
TEST_MIRROR(leaving, unplugging_can_be_interrupted)
{
	struct sigaction action = { .sa_handler = do_nothing };
	struct itimerval soon = { { 0, 100000 }, { 0, 100000 } }, never = {};
	struct iovec page = { .iov_base = area->at, .iov_len = PAGE };
	int pair[2];

	if (!device->coherent)
		SKIP(return, "no user can keep private memory on the device");
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, pipe(pair));
	ASSERT_EQ(PAGE, vmsplice(pair[1], &page, 1, 0));
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	EXPECT_EQ(-EINTR, mirror_call_once(device, HMM_DMIRROR_RELEASE,
					   area->at, SOME, area->buffer));
	setitimer(ITIMER_REAL, &never, NULL);
	EXPECT_EQ(1, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	/* and the device works as before */
	ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, unplug(device, area));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* A timer that is shorter than the command does not end it. */
TEST_MIRROR(leaving, long_commands_are_not_ended_by_a_timer)
{
	static const unsigned long restartable[] = {
		HMM_DMIRROR_WRITE, HMM_DMIRROR_READ, HMM_DMIRROR_READ_UNLOCKED,
		HMM_DMIRROR_SNAPSHOT, HMM_DMIRROR_MIGRATE_TO_DEV,
		HMM_DMIRROR_MIGRATE_TO_SYS, HMM_DMIRROR_CHECK_EXCLUSIVE,
	};
	struct sigaction action = { .sa_handler = do_nothing };
	struct itimerval often = { { 0, 1000 }, { 0, 1000 } }, never = {};
	struct area range;
	unsigned int i;
	int ret;

	if (!memory_for(6 * LONG))
		SKIP(return, "too little memory for pages of this size");
	ASSERT_EQ(0, area_map(&range, LONG));
	area_fill(&range, 1);
	sigaction(SIGALRM, &action, NULL);
	for (i = 0; i < ARRAY_SIZE(restartable); i++) {
		unsigned int tries = TRIES;

		setitimer(ITIMER_REAL, &often, NULL);
		do {
			ret = mirror_call_once(device, restartable[i],
					       range.at, LONG, range.buffer);
		} while ((ret == -EBUSY || ret == -ENOENT) && --tries);
		setitimer(ITIMER_REAL, &never, NULL);
		EXPECT_EQ(0, ret)
			TH_LOG("request %u", i);
	}
}

TEST_ON_DEVICE(leaving, unplugging_brings_memory_back)
{
	ASSERT_EQ(0, device_fill(device, area, 2));
	ASSERT_EQ(0, unplug(device, area));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, device_wrong(device, area, 2));

	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(leaving, unplugging_brings_memory_of_all_processes_back)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		move_and_wait(_metadata, &child, &own, area);
		EXPECT_EQ(0, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_TRUE(peer_hear(&child));
	ASSERT_EQ(0, unplug(device, area));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(leaving, unplugging_one_device_leaves_the_other)
{
	ASSERT_EQ(30, to_device_part(device, area, 0, 30));
	ASSERT_EQ(30, to_device_part(other, area, 40, 30));
	ASSERT_EQ(0, unplug(device, area));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(30, held(other, area));
	EXPECT_EQ(0, device_wrong(other, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * Exclusive access must not keep a page on a device that is unplugged. The
 * alarm is for a kernel that would wait forever.
 */
TEST_ON_DEVICE(leaving, exclusive_access_does_not_stop_unplugging)
{
	struct sigaction action = { .sa_handler = do_nothing };

	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, make_exclusive(other, area));
	sigaction(SIGALRM, &action, NULL);
	alarm(60);
	EXPECT_EQ(0, mirror_call_once(device, HMM_DMIRROR_RELEASE, area->at,
				      SOME, area->buffer));
	EXPECT_EQ(0, mirror_call_once(other, HMM_DMIRROR_RELEASE, area->at,
				      SOME, area->buffer));
	alarm(0);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* With read-only pages, and pages that are shared with a child. */
TEST_ON_DEVICE(leaving, unplugging_keeps_protection_and_sharing)
{
	struct peer child;

	ASSERT_EQ(0, area_protect_part(area, 0, 10, PROT_READ));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
		area_fill_part(area, 10, SOME - 10, 2);
		EXPECT_EQ(0, cpu_wrong_part(area, 10, SOME - 10, 2));
		_exit(0);
	}
	ASSERT_EQ(SOME, held(device, area));
	ASSERT_EQ(0, unplug(device, area));
	EXPECT_EQ(0, held(device, area));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill_part(device, area, 0, 1, 3));
	EXPECT_EQ(0, device_fill_part(device, area, 10, SOME - 10, 3));
	EXPECT_EQ(0, cpu_wrong_part(area, 10, SOME - 10, 3));
}

/* A user of the device while it is unplugged. */
struct user {
	struct mirror m;
	struct area area;
	atomic_bool stop;
	atomic_long wrong, rounds, there;
};

static void *use_device(void *data)
{
	struct user *user = data;
	uint64_t contents = 1;

	area_fill(&user->area, contents);
	while (!user->stop) {
		ask_to_device(&user->m, &user->area, 0, user->area.pages);
		user->there += held(&user->m, &user->area) > 0;
		user->wrong += !!device_wrong(&user->m, &user->area, contents);
		user->wrong += !!device_fill(&user->m, &user->area, ++contents);
		user->wrong += !!cpu_wrong(&user->area, contents);
		user->rounds++;
	}
	return NULL;
}

TEST_MIRROR(leaving, device_is_unplugged_while_in_use)
{
	struct user user = { .area = self->area };
	pthread_t thread;
	unsigned int i;

	ASSERT_EQ(0, mirror_open(&user.m, variant->device));
	ASSERT_EQ(0, pthread_create(&thread, NULL, use_device, &user));
	for (i = 0; i < 20; i++) {
		long rounds = user.rounds;

		EXPECT_EQ(0, unplug(device, area));
		/* the time limit of the test ends this if the user hangs */
		while (user.rounds == rounds)
			race_pause_ms(TRY_AGAIN_MS);
	}
	user.stop = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, user.wrong);
	EXPECT_NE(0, user.there);
	mirror_close(&user.m);
}
