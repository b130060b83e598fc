/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of hmm-tests share: fixtures with two devices and some memory,
 * and tests of these.
 *
 * The program is linked from hmm-tests.c, which has main(), and a file for each
 * fixture. kselftest_harness.h is made for programs of one object: each object
 * that includes it defines the functions and the head of the list of fixtures.
 * Here they are weak in all objects but that of main(). So the linker takes
 * those of main(), and all objects add their fixtures to one list.
 */
#ifndef HMM_TESTS_H
#define HMM_TESTS_H

#ifndef HMM_TESTS_MAIN
#pragma weak _fixture_global
#pragma weak __active_test
#pragma weak __wait_for_test
#pragma weak __run_test
static int __attribute__((unused)) test_harness_run(int argc, char **argv);
#endif

#include "../kselftest_harness.h"
#include "hmm_test_common.h"

/* A debug kernel in an emulator takes its time. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	900

/* More than a driver's batch of 64, and no multiple of it */
#define SOME	70
#define LARGE	1024L
/* A long command: several batches, and several leaf page tables */
#define LONG	(3 * 4096UL)

/* More than the memory of a coherent device */
#define MORE_THAN_A_DEVICE	(DEVICE_BYTES + (32UL << 20))

enum place { IN_SYSTEM, IN_DEVICE };

/* All requests that work on a range. */
#define NR_REQUESTS	9
extern const unsigned long requests[NR_REQUESTS];

/* Open the devices of a fixture. Return: NULL, or the reason for a skip. */
const char *open_devices(struct mirror *device, unsigned int nr,
			 struct mirror *other, unsigned int other_nr);

/* A child moves contents 2 to its device, and waits for the parent. */
void move_and_wait(struct __test_metadata *_metadata, struct peer *parent,
		   struct mirror *own, struct area *area);

/* Skip the test if there is a reason for it. */
#define SKIP_FOR(reason)						\
do {									\
	const char *__reason = (reason);				\
									\
	if (__reason)							\
		SKIP(return, "%s", __reason);				\
} while (0)

/* Open a userfaultfd, or skip the test. */
#define USERFAULT_OR_SKIP(uffd, features)				\
do {									\
	(uffd) = userfault_open(features);				\
	if ((uffd) < 0)							\
		SKIP(return, "no userfaultfd with " #features ": %s",	\
		     strerror(errno));					\
} while (0)

/* The data of a fixture with two devices, memory, and more members. */
#define MIRROR_DATA(kind, ...)						\
FIXTURE(kind)								\
{									\
	struct mirror device;						\
	struct mirror other;						\
	struct area area;						\
	__VA_ARGS__							\
};									\
FIXTURE_VARIANT(kind)							\
{									\
	unsigned int device;						\
	unsigned int other;						\
}

/* Variants for both kinds of memory, by the numbers of the devices' nodes */
#define BOTH_KINDS(kind)						\
FIXTURE_VARIANT_ADD(kind, device_private)				\
{									\
	.device = 0,							\
	.other = 1,							\
};									\
FIXTURE_VARIANT_ADD(kind, device_coherent)				\
{									\
	.device = 2,							\
	.other = 3,							\
}

/* For set-up and tear-down of such a fixture. */
#define OPEN_DEVICES()							\
	SKIP_FOR(open_devices(&self->device, variant->device,		\
			      &self->other, variant->other))
#define CLOSE_DEVICES()							\
do {									\
	mirror_close(&self->device);					\
	mirror_close(&self->other);					\
} while (0)

/* An area of SOME pages, and nothing else to set up */
#define MIRROR_SETUP(kind)						\
FIXTURE_SETUP(kind)							\
{									\
	OPEN_DEVICES();							\
	ASSERT_EQ(0, area_map(&self->area, SOME));			\
}									\
FIXTURE_TEARDOWN(kind)							\
{									\
	CLOSE_DEVICES();						\
}

#define MIRROR_FIXTURE(kind)						\
	MIRROR_DATA(kind);						\
	BOTH_KINDS(kind);						\
	MIRROR_SETUP(kind)

/* A function with the devices and the area of a fixture at hand */
#define __MIRROR_FUNCTION(kind, name)					\
static void kind##_##name##_body(struct __test_metadata *_metadata,	\
				 FIXTURE_DATA(kind) *self,		\
				 const FIXTURE_VARIANT(kind) *variant,	\
				 struct mirror *device,			\
				 struct mirror *other,			\
				 struct area *area)

#define __TEST_MIRROR(kind, name, prepare)				\
__MIRROR_FUNCTION(kind, name);						\
TEST_F(kind, name)							\
{									\
	prepare;							\
	kind##_##name##_body(_metadata, self, variant, &self->device,	\
			     &self->other, &self->area);		\
}									\
__MIRROR_FUNCTION(kind, name)

/* A test with self, variant, device, other and area as parameters. */
#define TEST_MIRROR(kind, name)						\
	__TEST_MIRROR(kind, name, (void)0)

/* The same, with contents 1 in the area. */
#define TEST_FILLED(kind, name)						\
	__TEST_MIRROR(kind, name, area_fill(&self->area, 1))

/* The same, and all of the area is on the device. */
#define TEST_ON_DEVICE(kind, name)					\
	__TEST_MIRROR(kind, name, FILL_AND_MOVE())
#define FILL_AND_MOVE()							\
do {									\
	area_fill(&self->area, 1);					\
	ASSERT_EQ((long)self->area.pages,				\
		  to_device(&self->device, &self->area));		\
} while (0)

/*
 * How many pages stay on the device after the CPU, or another user that cannot
 * access private device memory, used @touched pages of SOME. Coherent memory is
 * used in place.
 */
static inline long left_after(const struct mirror *m, long touched)
{
	return m->coherent ? SOME : SOME - touched;
}

#endif /* HMM_TESTS_H */
