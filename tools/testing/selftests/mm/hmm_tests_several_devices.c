// SPDX-License-Identifier: GPL-2.0-only
/* Several devices mirror the same memory. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_DATA(several_devices);
FIXTURE_VARIANT_ADD(several_devices, both_private)
{
	.device = 0,
	.other = 1,
};

FIXTURE_VARIANT_ADD(several_devices, both_coherent)
{
	.device = 2,
	.other = 3,
};

FIXTURE_VARIANT_ADD(several_devices, private_and_coherent)
{
	.device = 0,
	.other = 2,
};

FIXTURE_VARIANT_ADD(several_devices, coherent_and_private)
{
	.device = 3,
	.other = 1,
};

MIRROR_SETUP(several_devices)

TEST_MIRROR(several_devices, each_device_sees_what_the_other_wrote)
{
	unsigned int turn;

	for (turn = 1; turn < 20; turn += 2) {
		ASSERT_EQ(0, device_fill(device, area, turn));
		ASSERT_EQ(0, device_wrong(other, area, turn));
		ASSERT_EQ(0, device_fill(other, area, turn + 1));
		ASSERT_EQ(0, device_wrong(device, area, turn + 1));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

TEST_ON_DEVICE(several_devices, snapshot_shows_memory_of_the_other_device)
{
	EXPECT_EQ(0, held(other, area));
	EXPECT_EQ(!device->coherent ? HMM_DMIRROR_PROT_NONE :
		  HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(other, area->at));
	EXPECT_EQ(SOME, held(device, area));
}

TEST_ON_DEVICE(several_devices, second_device_reads_device_memory)
{
	EXPECT_EQ(0, device_wrong(other, area, 1));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(several_devices, second_device_writes_device_memory)
{
	ASSERT_EQ(0, device_fill_part(other, area, 10, 20, 2));
	EXPECT_EQ(left_after(device, 20), held(device, area));
	EXPECT_EQ(0, device_wrong_but(device, area, 1, 10, 20, 2));
	EXPECT_EQ(0, cpu_wrong_part(area, 10, 20, 2));
}

TEST_ON_DEVICE(several_devices, memory_moves_from_one_device_to_the_other)
{
	ask_to_device(other, area, 0, SOME);
	EXPECT_EQ(SOME, held(device, area) + held(other, area));
	ASSERT_EQ(0, to_system(device, area));
	ASSERT_EQ(SOME, to_device(other, area));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, device_wrong(other, area, 1));
	ASSERT_EQ(0, device_fill(other, area, 2));
	EXPECT_EQ(SOME, held(other, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_FILLED(several_devices, each_device_holds_a_part)
{
	ASSERT_EQ(30, to_device_part(device, area, 0, 30));
	ASSERT_EQ(30, to_device_part(other, area, 40, 30));
	EXPECT_EQ(30, held(device, area));
	EXPECT_EQ(30, held(other, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(30, held(device, area));
	EXPECT_EQ(0, device_wrong(other, area, 1));
	ASSERT_EQ(0, device_fill_part(device, area, 20, 30, 2));
	EXPECT_EQ(0, device_wrong_part(other, area, 20, 30, 2));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 20, 30, 2));
}

TEST_FILLED(several_devices, both_devices_see_an_unmap)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_wrong(other, area, 1));
	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	EXPECT_EQ(0, device_wrong(device, area, 0));
	EXPECT_EQ(0, device_wrong(other, area, 0));
	ASSERT_EQ(0, area_unmap(area));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 0));
	EXPECT_EQ(-EFAULT, device_wrong(other, area, 0));
}

TEST_FILLED(several_devices, second_device_sees_a_migration)
{
	ASSERT_EQ(0, device_wrong(other, area, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, device_wrong(other, area, 2));
}
