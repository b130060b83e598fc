// SPDX-License-Identifier: GPL-2.0-only
/* Files and shared memory: they are mirrored and keep their contents. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mount.h>

#include "hmm_tests.h"

MIRROR_DATA(files, int fd;);
BOTH_KINDS(files);

FIXTURE_SETUP(files)
{
	OPEN_DEVICES();
	self->fd = memfd_create("hmm-tests", 0);
	ASSERT_NE(-1, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&self->area, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->fd));
}

FIXTURE_TEARDOWN(files)
{
	CLOSE_DEVICES();
	close(self->fd);
}

/* Return: the number of pages of the file with other contents. */
static long file_wrong(int fd, struct area *area, uint64_t contents)
{
	if (pread(fd, area->buffer, area->pages * PAGE, 0) !=
	    (ssize_t)(area->pages * PAGE))
		return -errno;
	return contents_wrong(area->buffer, 0, area->pages, contents);
}

TEST_FILLED(files, device_writes_reach_the_file)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, file_wrong(self->fd, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(files, device_fills_an_empty_file)
{
	EXPECT_EQ(0, device_wrong(device, area, 0));
	ASSERT_EQ(0, device_fill(device, area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
}

TEST_FILLED(files, writes_to_the_file_reach_the_device)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(SOME * PAGE, pwrite(self->fd, area->buffer, SOME * PAGE, 0));
	EXPECT_EQ(0, device_wrong(device, area, 2));
}

TEST_FILLED(files, device_write_makes_the_file_dirty)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty") +
				smaps_pages(area->at, "Shared_Dirty"));
}

TEST_FILLED(files, file_pages_never_become_private_device_memory)
{
	ask_to_device(device, area, 0, SOME);
	ask_to_device(device, area, 0, SOME);
	if (!device->coherent)
		EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	EXPECT_EQ(0, file_wrong(self->fd, area, 2));
}

TEST_MIRROR(files, holes_of_files_do_not_move)
{
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 0));
	EXPECT_EQ(0, file_wrong(self->fd, area, 0));
}

/* On a new file system, which vanishes with the last user of the file. */
static int open_huge_file(void)
{
	char dir[] = "/tmp/hmm-tests.XXXXXX";
	int fd = -1;

	if (!mkdtemp(dir))
		return -1;
	if (!mount("hmm-tests", dir, "tmpfs", 0, "huge=always")) {
		fd = open(dir, O_TMPFILE | O_RDWR, 0600);
		umount2(dir, MNT_DETACH);
	}
	rmdir(dir);
	if (fd >= 0 && ftruncate(fd, thp_bytes)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static bool file_is_huge(struct mirror *m, int fd)
{
	struct area area;

	if (area_map_file(&area, THP_PAGES, PROT_READ | PROT_WRITE, MAP_SHARED,
			  fd) ||
	    cpu_try(area.at, CPU_WRITE))
		return false;
	return mirror_place(m, area.at) & HMM_DMIRROR_PROT_PMD;
}

/* Pages of files do not move, so there is no reason to split them. */
TEST_MIRROR(files, large_pages_of_files_stay_whole)
{
	int fd = open_huge_file();
	size_t some = THP_PAGES - 1;
	struct area range;

	if (fd < 0 || !file_is_huge(device, fd))
		SKIP(return, "no THP available for a file");
	ASSERT_EQ(0, area_map_file(&range, THP_PAGES, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	/* map it by PTEs */
	ASSERT_EQ(0, area_protect_part(&range, some, 1, PROT_READ));
	area_fill_part(&range, 0, some, 1);
	ASSERT_FALSE(mirror_place(device, range.at) & HMM_DMIRROR_PROT_PMD);
	ask_to_device(device, &range, 0, some);
	EXPECT_EQ(0, cpu_wrong_part(&range, 0, some, 1));
	EXPECT_TRUE(file_is_huge(device, fd));
	close(fd);
}

TEST_FILLED(files, private_copies_move_without_the_file)
{
	struct area copy;

	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, self->fd));
	EXPECT_EQ(0, cpu_wrong(&copy, 1));
	area_fill_part(&copy, 0, 10, 2);
	ASSERT_EQ(10, to_device_part(device, &copy, 0, 10));
	ask_to_device(device, &copy, 0, SOME);
	if (!device->coherent)
		EXPECT_EQ(10, held(device, &copy));
	EXPECT_EQ(0, device_wrong_but(device, &copy, 1, 0, 10, 2));
	ASSERT_EQ(0, device_fill(device, &copy, 3));
	EXPECT_EQ(0, cpu_wrong(&copy, 3));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
}

TEST_FILLED(files, device_write_to_a_private_mapping_copies)
{
	struct area copy;

	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, self->fd));
	EXPECT_EQ(0, device_wrong(device, &copy, 1));
	ASSERT_EQ(0, device_fill(device, &copy, 2));
	EXPECT_EQ(0, cpu_wrong(&copy, 2));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
}

TEST_FILLED(files, read_only_file_takes_no_device_write)
{
	struct area shut;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->fd);
	fd = open(path, O_RDONLY);
	ASSERT_NE(-1, fd);
	ASSERT_EQ(0, area_map_file(&shut, SOME, PROT_READ, MAP_SHARED, fd));
	EXPECT_EQ(0, device_wrong(device, &shut, 1));
	EXPECT_EQ(-EPERM, device_fill(device, &shut, 2));
	EXPECT_EQ(0, file_wrong(self->fd, area, 1));
	close(fd);
}

TEST_FILLED(files, truncated_pages_are_out_of_reach)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, ftruncate(self->fd, 10 * PAGE));
	EXPECT_EQ(0, device_wrong_part(device, area, 0, 10, 1));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, 10, 1, 1));
	EXPECT_EQ(-EFAULT, device_fill_part(device, area, 10, 1, 2));
	ASSERT_EQ(0, ftruncate(self->fd, SOME * PAGE));
	EXPECT_EQ(0, device_wrong_but(device, area, 0, 0, 10, 1));
}

TEST_FILLED(files, punched_holes_read_as_zeroes)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, fallocate(self->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       5 * PAGE, 5 * PAGE));
	EXPECT_EQ(0, device_wrong_but(device, area, 1, 5, 5, 0));
}

TEST_MIRROR(files, two_mappings_show_the_same_to_the_device)
{
	struct area twin;

	ASSERT_EQ(0, area_map_file(&twin, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, self->fd));
	ASSERT_EQ(0, device_fill(device, area, 1));
	EXPECT_EQ(0, device_wrong(device, &twin, 1));
	ASSERT_EQ(0, device_fill(device, &twin, 2));
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(&twin, 2));
}
