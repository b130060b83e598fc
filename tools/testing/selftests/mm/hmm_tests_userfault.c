// SPDX-License-Identifier: GPL-2.0-only
/* Userfaultfd: its user provides pages and sees writes. */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(userfault)

TEST_MIRROR(userfault, missing_pages_do_not_move)
{
	int uffd;
	size_t i;

	USERFAULT_OR_SKIP(uffd, UFFD_FEATURE_SIGBUS);
	ASSERT_EQ(0, userfault_register(uffd, area,
					UFFDIO_REGISTER_MODE_MISSING));
	for (i = 0; i < SOME; i += 2)
		ASSERT_EQ(0, userfault_fill(uffd, area, i, 1));
	ask_to_device(device, area, 0, SOME);
	ASSERT_TRUE(eventually((ask_to_device(device, area, 0, SOME),
				held(device, area) == SOME / 2)));
	for (i = 1; i < SOME; i += 2) {
		EXPECT_EQ(0, pagemap_entry(area_page(area, i)) &
			     (PAGEMAP_PRESENT | PAGEMAP_SWAP));
		EXPECT_EQ(SIGBUS, cpu_try(area_page(area, i), CPU_READ));
		ASSERT_EQ(0, userfault_fill(uffd, area, i, 1));
	}
	EXPECT_EQ(SOME / 2, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	close(uffd);
}

TEST_MIRROR(userfault, device_gets_an_error_for_missing_pages)
{
	int uffd;

	USERFAULT_OR_SKIP(uffd, UFFD_FEATURE_SIGBUS);
	ASSERT_EQ(0, userfault_register(uffd, area,
					UFFDIO_REGISTER_MODE_MISSING));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 0));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT));
	ASSERT_EQ(0, userfault_fill(uffd, area, 0, 2));
	EXPECT_EQ(0, device_wrong_part(device, area, 0, 1, 2));
	close(uffd);
}

/* Write-protect the first half of the pages. */
static void protect_half(struct __test_metadata *_metadata, int uffd,
			 struct area *area)
{
	ASSERT_EQ(0, userfault_register(uffd, area, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME / 2,
				       UFFDIO_WRITEPROTECT_MODE_WP));
}

#define WP_FEATURES	(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP)

static void check_protection(struct __test_metadata *_metadata,
			     struct mirror *m, struct area *area)
{
	EXPECT_EQ(SOME / 2, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(-EFAULT, device_fill_part(m, area, 0, 1, 2));
	EXPECT_EQ(-EFAULT, device_fill_part(m, area, SOME / 2 - 1, 1, 2));
	EXPECT_EQ(0, device_fill_part(m, area, SOME / 2, 1, 1));
	EXPECT_EQ(0, device_wrong(m, area, 1));
}

TEST_FILLED(userfault, write_protection_survives_a_round_trip)
{
	int uffd;

	USERFAULT_OR_SKIP(uffd, WP_FEATURES);
	protect_half(_metadata, uffd, area);
	check_protection(_metadata, device, area);
	ASSERT_EQ(SOME, to_device(device, area));
	check_protection(_metadata, device, area);
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(0, cpu_try(area_page(area, SOME - 1), CPU_WRITE));
	ASSERT_EQ(0, to_system(device, area));
	check_protection(_metadata, device, area);
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(uffd);
}

TEST_ON_DEVICE(userfault, device_memory_can_be_write_protected)
{
	int uffd;

	USERFAULT_OR_SKIP(uffd, WP_FEATURES);
	protect_half(_metadata, uffd, area);
	EXPECT_EQ(SOME, held(device, area));
	check_protection(_metadata, device, area);
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(uffd);
}

/* Pages without protection are not affected. */
TEST_ON_DEVICE(userfault, device_memory_stays_writable_when_protection_ends)
{
	int writable = mirror_local(device) | HMM_DMIRROR_PROT_WRITE;
	int uffd;

	USERFAULT_OR_SKIP(uffd, WP_FEATURES);
	protect_half(_metadata, uffd, area);
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME, 0));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(writable, mirror_place(device, area_page(area, SOME / 2)));
	close(uffd);
	EXPECT_EQ(writable, mirror_place(device, area_page(area, SOME - 1)));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The write of the device clears the protection, without a handler. */
TEST_ON_DEVICE(userfault, async_protection_is_resolved_on_the_device)
{
	int uffd;

	USERFAULT_OR_SKIP(uffd, UFFD_FEATURE_WP_ASYNC |
				UFFD_FEATURE_WP_UNPOPULATED);
	ASSERT_EQ(0, userfault_register(uffd, area, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME,
				       UFFDIO_WRITEPROTECT_MODE_WP));
	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	ASSERT_EQ(0, device_fill_part(device, area, 0, 10, 1));
	EXPECT_EQ(SOME - 10, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME - 10, pagemap_count(area, PAGEMAP_UFFD_WP));
	close(uffd);
}

TEST_MIRROR(userfault, protection_of_holes_is_kept)
{
	int uffd;

	USERFAULT_OR_SKIP(uffd, UFFD_FEATURE_SIGBUS |
				UFFD_FEATURE_WP_UNPOPULATED);
	ASSERT_EQ(0, userfault_register(uffd, area, UFFDIO_REGISTER_MODE_WP));
	ASSERT_EQ(0, userfault_protect(uffd, area, 0, SOME,
				       UFFDIO_WRITEPROTECT_MODE_WP));
	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	EXPECT_EQ(-EFAULT, device_fill(device, area, 1));
	EXPECT_EQ(SIGBUS, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 0));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_UFFD_WP));
	close(uffd);
}

#ifdef UFFDIO_POISON
TEST_MIRROR(userfault, poison_is_kept)
{
	struct uffdio_poison args = {
		.range.start = (uintptr_t)area_page(area, 1),
		.range.len = PAGE,
	};
	int uffd;

	USERFAULT_OR_SKIP(uffd, UFFD_FEATURE_POISON);
	ASSERT_EQ(0, userfault_register(uffd, area,
					UFFDIO_REGISTER_MODE_MISSING));
	ASSERT_EQ(0, userfault_fill(uffd, area, 0, 1));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_POISON, &args));
	ASSERT_EQ(1, to_device_part(device, area, 0, 1));
	ask_to_device(device, area, 0, 2);
	EXPECT_EQ(0, held_part(device, area, 1, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, 1, 1, 0));
	EXPECT_EQ(-EFAULT, device_fill_part(device, area, 1, 1, 1));
	EXPECT_EQ(SIGBUS, cpu_try(area_page(area, 1), CPU_READ));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 1, 1));
	close(uffd);
}
#endif
