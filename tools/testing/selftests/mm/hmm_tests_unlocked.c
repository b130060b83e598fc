// SPDX-License-Identifier: GPL-2.0-only
/* Reads without mmap_lock wait until the memory is provided. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>

#include "hmm_tests.h"

MIRROR_DATA(unlocked);
BOTH_KINDS(unlocked);

static int read_unlocked(struct mirror *m, struct area *area, size_t pages)
{
	memset(area->buffer, 0x5a, pages * PAGE);
	return mirror_call(m, HMM_DMIRROR_READ_UNLOCKED, area->at, pages,
			   area->buffer);
}

FIXTURE_SETUP(unlocked)
{
	int ret;

	OPEN_DEVICES();
	ASSERT_EQ(0, area_map(&self->area, SOME));
	ret = read_unlocked(&self->device, &self->area, 1);
	if (ret == -ENOTTY || ret == -EINVAL)
		SKIP(return, "the driver has no HMM_DMIRROR_READ_UNLOCKED");
	ASSERT_EQ(0, ret);
}

FIXTURE_TEARDOWN(unlocked)
{
	CLOSE_DEVICES();
}

TEST_FILLED(unlocked, device_reads_what_the_cpu_wrote)
{
	ASSERT_EQ(0, read_unlocked(device, area, SOME));
	EXPECT_EQ(SOME, device->pages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, read_unlocked(device, area, SOME));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME, held(device, area));
}

TEST_MIRROR(unlocked, memory_without_access_is_refused)
{
	ASSERT_EQ(0, area_protect(area, PROT_NONE));
	EXPECT_EQ(-EFAULT, read_unlocked(device, area, SOME));
	ASSERT_EQ(0, area_unmap(area));
	EXPECT_EQ(-EFAULT, read_unlocked(device, area, SOME));
}

/* A handler of userfaultfd */
struct provider {
	struct area area;
	int uffd;
	unsigned int delay;	/* of the first page, in ms */
	long pages, errors;
};

static void *provide(void *data)
{
	struct provider *p = data;
	struct uffd_msg message;

	while (read(p->uffd, &message, sizeof(message)) == sizeof(message)) {
		uint64_t at = message.arg.pagefault.address;
		size_t page = (at - (uintptr_t)p->area.at) / PAGE;

		if (page >= p->area.pages)
			break;
		if (!p->pages++)
			race_pause_ms(p->delay);
		p->errors += !!userfault_fill(p->uffd, &p->area, page, 1);
	}
	return NULL;
}

/* With p->uffd open. Return: 0, or an error. */
static int provider_start(struct provider *p, pthread_t *thread)
{
	int ret;

	fcntl(p->uffd, F_SETFL, 0);
	p->area.buffer = calloc(SOME, PAGE);
	if (!p->area.buffer)
		return -ENOMEM;
	ret = userfault_register(p->uffd, &p->area,
				 UFFDIO_REGISTER_MODE_MISSING);
	return ret ? ret : -pthread_create(thread, NULL, provide, p);
}

static void provider_end(struct provider *p, pthread_t thread)
{
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	close(p->uffd);
	free(p->area.buffer);
}

TEST_MIRROR(unlocked, device_waits_for_missing_pages)
{
	struct provider p = { .area = *area };
	pthread_t thread;

	ASSERT_EQ(0, area_advise(area, MADV_DONTNEED));
	USERFAULT_OR_SKIP(p.uffd, 0);
	ASSERT_EQ(0, provider_start(&p, &thread));
	EXPECT_EQ(0, read_unlocked(device, area, SOME));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME, p.pages);
	EXPECT_EQ(0, p.errors);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	provider_end(&p, thread);
}

/* The next page takes longer than the driver waits. */
TEST_FILLED(unlocked, present_pages_do_not_wait_for_missing_ones)
{
	struct provider p = { .area = *area, .delay = 1500 };
	pthread_t thread;

	ASSERT_EQ(0, area_advise_part(area, 1, SOME - 1, MADV_DONTNEED));
	USERFAULT_OR_SKIP(p.uffd, 0);
	ASSERT_EQ(0, provider_start(&p, &thread));
	EXPECT_EQ(0, mirror_call_once(device, HMM_DMIRROR_READ_UNLOCKED,
				      area->at, SOME, area->buffer));
	EXPECT_EQ(SOME, device->pages);
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(SOME - 1, p.pages);
	EXPECT_EQ(0, p.errors);
	provider_end(&p, thread);
}
