// SPDX-License-Identifier: GPL-2.0-only
/* Protection: the device is bound by the permissions of the process. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_FIXTURE(protection)

TEST_FILLED(protection, read_only_memory_takes_no_write)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_READ, mirror_place(device, area->at) &
		  (HMM_DMIRROR_PROT_READ | HMM_DMIRROR_PROT_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(protection, write_permission_can_be_removed_and_restored)
{
	ASSERT_EQ(0, device_fill(device, area, 1));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_fill(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_FILLED(protection, memory_without_access_is_refused)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, area_protect(area, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 2));
	EXPECT_NE(0, ask_to_device(device, area, 0, SOME));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_ON_DEVICE(protection, device_memory_can_be_made_read_only)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(device, area->at));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, held(device, area));

	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_fill(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_ON_DEVICE(protection, device_memory_can_be_made_inaccessible)
{
	ASSERT_EQ(0, area_protect(area, PROT_NONE));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_READ));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(protection, read_only_memory_stays_read_only_when_it_migrates)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(device, area->at));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* MADV_FREE leaves pages clean and writable. */
TEST_MIRROR(protection, device_write_makes_memory_dirty)
{
	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	ASSERT_TRUE(eventually(!area_advise(area, MADV_FREE) &&
			       !smaps_pages(area->at, "Private_Dirty")));
	EXPECT_EQ(0, HMM_DMIRROR_PROT_WRITE & mirror_place(device, area->at));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, mirror_place(device, area->at));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}
