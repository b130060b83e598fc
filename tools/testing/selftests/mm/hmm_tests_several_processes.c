// SPDX-License-Identifier: GPL-2.0-only
/* Several processes use the same device. */
#define _GNU_SOURCE
#include <sys/uio.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(several_processes)

TEST_MIRROR(several_processes, processes_have_their_own_memory_at_one_address)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		move_and_wait(_metadata, &child, &own, area);
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 3));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

TEST_MIRROR(several_processes, processes_see_the_same_shared_memory)
{
	struct area shared;
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, area_map_file(&shared, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1));
	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, device_wrong(&own, &shared, 1));
		ASSERT_EQ(0, device_fill(&own, &shared, 2));
		_exit(0);
	}
	ASSERT_EQ(0, device_fill(device, &shared, 1));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(device, &shared, 2));
	EXPECT_EQ(0, cpu_wrong(&shared, 2));
}

TEST_MIRROR(several_processes, exit_of_one_process_leaves_the_other_alone)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		move_and_wait(_metadata, &child, &own, area);
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

/* Return: the number of requests that fail with -EBADF. */
static unsigned int requests_refused(struct mirror *m, struct area *area)
{
	unsigned int refused = 0;
	size_t i;

	for (i = 0; i < NR_REQUESTS; i++)
		refused += mirror_call_once(m, requests[i], area->at,
					    area->pages,
					    area->buffer) == -EBADF;
	return refused;
}

TEST_FILLED(several_processes, inherited_file_serves_only_its_opener)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		area_fill(area, 2);
		contents_fill(area->buffer, 0, SOME, 3);
		EXPECT_EQ(NR_REQUESTS, requests_refused(device, area));
		EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 3));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 4));
	EXPECT_EQ(0, cpu_wrong(area, 4));
}

/* The opener of a file exits before its child, which inherits the file. */
static void open_and_exit(struct __test_metadata *_metadata, unsigned int node,
			  struct area *area)
{
	struct mirror own;
	struct peer grandchild;

	ASSERT_EQ(0, mirror_open(&own, node));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&own, area));
	ASSERT_EQ(0, peer_fork(&grandchild));
	if (grandchild.pid)
		_exit(0);
	ASSERT_EQ(false, peer_hear(&grandchild));
	EXPECT_EQ(NR_REQUESTS, requests_refused(&own, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	mirror_close(&own);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(several_processes, inherited_file_outlives_its_opener)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		open_and_exit(_metadata, variant->device, area);
		peer_tell(&child);
		_exit(0);
	}
	EXPECT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* Space for one descriptor, aligned like a header */
union passed_file {
	char space[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static int pass_file(int sock, int fd)
{
	union passed_file control = {};
	struct iovec byte = { .iov_base = "", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(sock, &message, 0) == 1 ? 0 : -1;
}

static int receive_file(int sock)
{
	union passed_file control;
	char data;
	struct iovec byte = { .iov_base = &data, .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	struct cmsghdr *header;
	int fd = -1;

	if (recvmsg(sock, &message, 0) != 1)
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

TEST_MIRROR(several_processes, passed_file_serves_only_its_opener)
{
	struct peer child;
	struct mirror passed;

	ASSERT_EQ(0, peer_fork_device(&child, &passed, variant->device));
	if (!child.pid) {
		area_fill(area, 2);
		ASSERT_EQ(SOME, to_device(&passed, area));
		ASSERT_EQ(0, pass_file(child.sock, passed.fd));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, device_wrong(&passed, area, 2));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	area_fill(area, 1);
	passed = self->device;
	passed.fd = receive_file(child.sock);
	ASSERT_NE(-1, passed.fd);
	EXPECT_EQ(NR_REQUESTS, requests_refused(&passed, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	/* the opener has exited, and the file is still open */
	EXPECT_EQ(NR_REQUESTS, requests_refused(&passed, area));
	mirror_close(&passed);
	EXPECT_EQ(0, device_wrong(device, area, 1));
}
