// SPDX-License-Identifier: GPL-2.0-only
/* Sets up the regions that all processes of the torture map, and drops them. */
#include "hmm_torture_memory.h"
#include "hmm_torture_regions.h"

/* A lock between processes, whose owner may be killed. */
void set_up_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(lock, &attr);
}

void set_up_blocks(struct block *blocks, uint8_t leaves)
{
	memset(blocks, 0, NR_BLOCKS * sizeof(*blocks));
	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		set_up_lock(&blocks[b].contents);
		blocks[b].record.leaves[0] = leaves;
	}
}

static void make_region(unsigned int nr)
{
	struct region *region = &regions[nr];

	region->nr = nr;
	region->fd = -1;
	region->blocks = control->shared[nr];
	region->slot = &control->slots[0];
	set_up_blocks(region->blocks, RACE_LEAVES_ZERO);
}

/* With a gap after each, and room for a huge page. */
static void reserve_addresses(void)
{
	size_t size = (NR_REGIONS + 1) * 2 * region_size;
	char *addr = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS |
			  MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		ksft_exit_fail_msg("no address space\n");
	addr += -(uintptr_t)addr & (region_size - 1);
	for (unsigned int i = 0; i < NR_REGIONS; i++) {
		make_region(i);
		regions[i].addr = addr + i * 2 * region_size;
	}
}

static int make_file(const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", options.directory, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, region_size))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	unlink(path);
	return fd;
}

static void write_other(const struct region *region)
{
	uint32_t *words = memory(block_size, PROT_READ | PROT_WRITE);

	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		struct span s = { (struct region *)region, b, 1 };

		fill_other(words, &s);
		if (pwrite(region->fd, words, block_size, b * block_size) !=
		    (ssize_t)block_size)
			ksft_exit_fail_msg("a file cannot be written\n");
	}
	munmap(words, block_size);
}

/* Writes to private mappings do not change the file. */
void check_private_file(void)
{
	uint32_t *is = memory(2 * block_size, PROT_READ | PROT_WRITE);
	uint32_t *was = is + block_words;

	for (unsigned int b = 0; b < NR_BLOCKS; b++) {
		struct span s = { &regions[OWN_FILE], b, 1 };

		fill_other(was, &s);
		if (pread(regions[OWN_FILE].fd, is, block_size,
			  b * block_size) != (ssize_t)block_size)
			complain(ERRORS, "a file cannot be read: %s\n",
				 strerror(errno));
		else if (memcmp(is, was, block_size))
			complain(WORDS, "block %u of a file has changed by a private mapping\n",
				 b);
	}
	munmap(is, 2 * block_size);
}

void make_regions(void)
{
	reserve_addresses();
	regions[OWN_FILE].fd = make_file("hmm-torture.private");
	write_other(&regions[OWN_FILE]);
	regions[SHARED_FILE].fd = make_file("hmm-torture.shared");
	regions[SHARED_SHMEM].fd = memfd_create("hmm-torture", MFD_CLOEXEC);
	if (regions[SHARED_SHMEM].fd < 0 ||
	    ftruncate(regions[SHARED_SHMEM].fd, region_size))
		ksft_exit_fail_msg("no shmem: %s\n", strerror(errno));
	if (!map_memory(&regions[SHARED_ANON], regions[SHARED_ANON].addr,
			region_size, MAP_FIXED))
		ksft_exit_fail_msg("no shared memory\n");
}

void drop_regions(void)
{
	for (unsigned int i = 0; i < NR_REGIONS; i++)
		if (regions[i].fd >= 0)
			close(regions[i].fd);
	munmap(regions[0].addr, NR_REGIONS * 2 * region_size);
	/* this also drops the pins of a process that was killed */
	if (gup_fd >= 0)
		close(gup_fd);
}
