// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of heterogeneous memory management, by way of the dummy device
 * (lib/test_hmm.c): a test checks one promise to a process.
 *
 * hmm_tests_*.c have one fixture each, a group of promises, with variants for
 * device-private and device-coherent memory. A test that needs pages on the
 * device reads their place from the kernel first, so that no test passes
 * because nothing moved.
 *
 * Where the system lacks something (a device, THPs, swap, ...), the tests that
 * need it are skipped, with the reason. Tests need root, restore the state of
 * the system, and do not depend on its speed.
 */
#define _GNU_SOURCE
#define HMM_TESTS_MAIN
#include "hmm_tests.h"

const unsigned long requests[NR_REQUESTS] = {
	HMM_DMIRROR_READ,
	HMM_DMIRROR_WRITE,
	HMM_DMIRROR_MIGRATE_TO_DEV,
	HMM_DMIRROR_MIGRATE_TO_SYS,
	HMM_DMIRROR_SNAPSHOT,
	HMM_DMIRROR_EXCLUSIVE,
	HMM_DMIRROR_EXCLUSIVE_AT_ONCE,
	HMM_DMIRROR_READ_UNLOCKED,
	HMM_DMIRROR_WRITE_UNLOCKED,
};

const char *open_devices(struct mirror *device, unsigned int nr,
			 struct mirror *other, unsigned int other_nr)
{
	static char reason[80];
	int ret;

	other->fd = -1;
	ret = mirror_open(device, nr);
	if (!ret)
		ret = mirror_open(other, other_nr);
	if (!ret)
		return NULL;
	snprintf(reason, sizeof(reason), "no /dev/hmm_dmirror%u%s (%s)", nr,
		 nr >= 2 || other_nr >= 2 ?
		 ": test_hmm has no memory for coherent devices" :
		 ": test_hmm is not loaded", strerror(-ret));
	return reason;
}

void move_and_wait(struct __test_metadata *_metadata, struct peer *parent,
		   struct mirror *own, struct area *area)
{
	area_fill(area, 2);
	ASSERT_EQ(SOME, to_device(own, area));
	ASSERT_TRUE(peer_tell(parent));
	ASSERT_TRUE(peer_hear(parent));
}

int main(int argc, char **argv)
{
	/* The heads of the lists are shared only if they stay the heads. */
	if (!__constructor_order_forward)
		ksft_exit_fail_msg("constructors run in reverse order\n");
	return test_harness_run(argc, argv);
}
