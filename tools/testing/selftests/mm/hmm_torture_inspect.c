// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations that inspect page tables and other processes, and asynchronous
 * write protection, which inspection depends on.
 */
#include <linux/userfaultfd.h>

#include "hmm_torture_access.h"
#include "hmm_torture_ops.h"

/* Another process's memory */

static struct region region_of(struct slot *other, unsigned int nr)
{
	struct region region = regions[nr];

	region.slot = other;
	region.blocks = other->own[nr];
	region.mappings = other->mappings[nr];
	region.id = region_id(nr, other);
	return region;
}

static bool copy_from(pid_t pid, void *to, const struct span *s)
{
	char path[32];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	got = pread(fd, to, block_size, (uintptr_t)span_address(s));
	close(fd);
	return got == (ssize_t)block_size;
}

bool op_read_other(struct worker *w)
{
	struct slot *other = &control->slots[below(w, options.slots)];
	struct region region = region_of(other, below(w, NR_OWN));
	struct span s = { &region, below(w, NR_BLOCKS), 1 };
	struct view view = view_open(&s);
	pid_t pid = other->pid;

	if (!other->ready || pid <= 0 || !copy_from(pid, w->buffer, &s))
		return false;
	view_close(&view, &s);
	return check_block("read of another process", &s, &view, w->buffer);
}

/* Userfaultfd: write protection that the kernel removes at a write */

bool op_write_protect(struct worker *w)
{
	struct span s = pick_span(w);
	struct uffdio_range range = {
		.start = (uintptr_t)span_address(&s),
		.len = span_size(&s),
	};
	struct uffdio_register reg = {
		.range = range,
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect protect = {
		.range = range,
		.mode = one_in(w, 4) ? 0 : UFFDIO_WRITEPROTECT_MODE_WP,
	};

	if (uffd < 0)
		return false;
	ioctl(uffd, UFFDIO_REGISTER, &reg);
	if (one_in(w, 16))
		return !ioctl(uffd, UFFDIO_UNREGISTER, &range);
	return !ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);
}

int open_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    UFFD_FEATURE_WP_UNPOPULATED,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Walks of page tables by procfs */
bool op_inspect(struct worker *w)
{
	struct span s = pick_span(w);
	char text[1024];
	int fd;

	if (pread(pagemap, w->buffer, s.nr * block_pages * sizeof(uint64_t),
		  (uintptr_t)span_address(&s) / page_size *
		  sizeof(uint64_t)) < 0)
		return false;
	if (!one_in(w, 8))
		return true;
	if (one_in(w, 4))
		return !race_write_file("/proc/self/clear_refs",
					one_in(w, 2) ? "1" : "4");
	fd = open("/proc/self/smaps_rollup", O_RDONLY);
	if (fd < 0)
		return false;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
	return true;
}
