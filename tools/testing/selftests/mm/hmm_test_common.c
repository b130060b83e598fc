// SPDX-License-Identifier: GPL-2.0-only
/* Common code of the tests of a mirrored address space, see the header. */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <sys/syscall.h>

#include "hmm_test_common.h"

size_t page_bytes;
size_t thp_bytes;

static void __attribute__((constructor)) find_page_sizes(void)
{
	page_bytes = sysconf(_SC_PAGESIZE);
	thp_bytes = race_huge_size();
}

/*
 * The dummy device
 */

int mirror_open(struct mirror *m, unsigned int nr)
{
	m->coherent = nr >= 2;
	m->fd = race_open_device(nr);
	return m->fd < 0 ? -errno : 0;
}

void mirror_close(struct mirror *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
}

int mirror_call_once(struct mirror *m, unsigned long request, const void *at,
		     size_t pages, void *buffer)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)at,
		.ptr = (uintptr_t)buffer,
		.npages = pages,
	};

	if (ioctl(m->fd, request, &cmd))
		return -errno;
	m->pages = cmd.cpages;
	m->faults = cmd.faults;
	return 0;
}

int mirror_call(struct mirror *m, unsigned long request, const void *at,
		size_t pages, void *buffer)
{
	unsigned int tries = TRIES;
	int ret;

	while ((ret = mirror_call_once(m, request, at, pages, buffer))) {
		if ((ret != -EBUSY && ret != -EINTR) || !--tries)
			break;
		race_pause_ms(TRY_AGAIN_MS);
	}
	return ret;
}

int mirror_place(struct mirror *m, const void *at)
{
	unsigned char place = 0;
	int ret = mirror_call(m, HMM_DMIRROR_SNAPSHOT, at, 1, &place);

	return ret ? ret : place;
}

/* The kind of memory, without the permissions and the size of the mapping. */
static int place_kind(int place)
{
	return place == HMM_DMIRROR_PROT_ERROR ? place : place & 0x70;
}

int mirror_local(const struct mirror *m)
{
	return m->coherent ? HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL :
			     HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
}

long mirror_holds(struct mirror *m, const void *at, size_t pages)
{
	unsigned char *places = calloc(pages, 1);
	long found = 0;
	int ret;
	size_t i;

	ret = mirror_call(m, HMM_DMIRROR_SNAPSHOT, at, pages, places);
	for (i = 0; i < pages; i++)
		found += place_kind(places[i]) == mirror_local(m);
	free(places);
	return ret ? ret : found;
}

/*
 * Memory
 */

unsigned char *area_reserve(size_t pages)
{
	size_t size = pages * PAGE;
	size_t align = thp_bytes && size >= thp_bytes ? thp_bytes : PAGE;
	unsigned char *at;

	at = mmap(NULL, size + 2 * align + PAGE, PROT_NONE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	return (void *)(((uintptr_t)at + align) & ~(align - 1));
}

int area_map_file(struct area *area, size_t pages, int prot, int flags, int fd)
{
	size_t size = pages * PAGE;
	void *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *at = area_reserve(pages);

	if (!at || buffer == MAP_FAILED)
		return -1;
	area->at = mmap(at, size, prot, flags | MAP_FIXED, fd, 0);
	area->buffer = buffer;
	area->pages = pages;
	return area->at == MAP_FAILED ? -1 : 0;
}

int area_map(struct area *area, size_t pages)
{
	return area_map_file(area, pages, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

int area_advise_part(const struct area *area, size_t page, size_t pages,
		     int advice)
{
	return madvise(area_page(area, page), pages * PAGE, advice) ?
	       -errno : 0;
}

int area_protect_part(const struct area *area, size_t page, size_t pages,
		      int prot)
{
	return mprotect(area_page(area, page), pages * PAGE, prot) ?
	       -errno : 0;
}

int area_unmap(const struct area *area)
{
	return munmap(area->at, area_size(area)) ? -errno : 0;
}

int area_move(const struct area *area, const struct area *to)
{
	return mremap(area->at, area_size(area), area_size(area),
		      MREMAP_MAYMOVE | MREMAP_FIXED, to->at) == to->at ?
	       0 : -errno;
}

uint64_t contents_word(uint64_t contents, size_t page, size_t i)
{
	return contents ? race_mix((contents << 40) + page * WORDS + i) : 0;
}

void contents_fill(void *to, size_t page, size_t pages, uint64_t contents)
{
	uint64_t *word = to;
	size_t i;

	for (i = 0; i < pages * WORDS; i++)
		word[i] = contents_word(contents, page, i);
}

long contents_wrong(const void *data, size_t page, size_t pages,
		    uint64_t contents)
{
	const uint64_t *word = data;
	long wrong = 0;
	size_t i, j;

	for (i = 0; i < pages; i++, word += WORDS) {
		for (j = 0; j < WORDS; j++)
			if (word[j] != contents_word(contents, page + i, j))
				break;
		wrong += j < WORDS;
	}
	return wrong;
}

void area_fill_part(struct area *area, size_t page, size_t pages,
		    uint64_t contents)
{
	contents_fill(area_page(area, page), page, pages, contents);
}

void area_fill(struct area *area, uint64_t contents)
{
	area_fill_part(area, 0, area->pages, contents);
}

long cpu_wrong_part(const struct area *area, size_t page, size_t pages,
		    uint64_t contents)
{
	return contents_wrong(area_page(area, page), page, pages, contents);
}

long cpu_wrong(const struct area *area, uint64_t contents)
{
	return cpu_wrong_part(area, 0, area->pages, contents);
}

long device_wrong_part(struct mirror *m, struct area *area, size_t page,
		       size_t pages, uint64_t contents)
{
	int ret;

	memset(area->buffer, 0x5a, pages * PAGE);
	ret = mirror_call(m, HMM_DMIRROR_READ, area_page(area, page), pages,
			  area->buffer);
	return ret ? ret : contents_wrong(area->buffer, page, pages, contents);
}

long device_wrong(struct mirror *m, struct area *area, uint64_t contents)
{
	return device_wrong_part(m, area, 0, area->pages, contents);
}

static long wrong_but(const unsigned char *data, size_t all, uint64_t contents,
		      size_t page, size_t pages, uint64_t other)
{
	size_t end = page + pages;

	return contents_wrong(data, 0, page, contents) +
	       contents_wrong(data + page * PAGE, page, pages, other) +
	       contents_wrong(data + end * PAGE, end, all - end, contents);
}

long cpu_wrong_but(const struct area *area, uint64_t contents, size_t page,
		   size_t pages, uint64_t other)
{
	return wrong_but(area->at, area->pages, contents, page, pages, other);
}

long device_wrong_but(struct mirror *m, struct area *area, uint64_t contents,
		      size_t page, size_t pages, uint64_t other)
{
	int ret;

	memset(area->buffer, 0x5a, area_size(area));
	ret = mirror_call(m, HMM_DMIRROR_READ, area->at, area->pages,
			  area->buffer);
	return ret ? ret : wrong_but(area->buffer, area->pages, contents, page,
				     pages, other);
}

int device_fill_part(struct mirror *m, struct area *area, size_t page,
		     size_t pages, uint64_t contents)
{
	contents_fill(area->buffer, page, pages, contents);
	return mirror_call(m, HMM_DMIRROR_WRITE, area_page(area, page), pages,
			   area->buffer);
}

int device_fill(struct mirror *m, struct area *area, uint64_t contents)
{
	return device_fill_part(m, area, 0, area->pages, contents);
}

/* Pages in batches of the LRU are left out at first. */
bool area_free_lazily(struct area *area)
{
	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	return eventually(!area_advise(area, MADV_FREE) &&
			  smaps_pages(area->at, "LazyFree") ==
			  (long)area->pages);
}

/*
 * Transparent huge pages
 */

bool thp_allowed(void)
{
	char mode[64] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");

	if (file && !fgets(mode, sizeof(mode), file))
		mode[0] = 0;
	if (file)
		fclose(file);
	return thp_bytes && mode[0] && !strstr(mode, "[never]");
}

static const char *map_for_thp(struct area *thp)
{
	if (!thp_allowed())
		return "THP is disabled";
	if (thp_bytes > DEVICE_BYTES)
		return "a THP is larger than the device memory";
	if (area_map(thp, THP_PAGES) || area_advise(thp, MADV_HUGEPAGE))
		return "cannot map memory for a THP";
	return NULL;
}

const char *map_thp(struct area *thp, uint64_t contents)
{
	const char *lack = map_for_thp(thp);

	if (lack)
		return lack;
	area_fill(thp, contents);
	if (smaps_pages(thp->at, "AnonHugePages") != (long)THP_PAGES)
		return "no THP available";
	return area_advise(thp, MADV_NOHUGEPAGE) ?
	       "cannot keep khugepaged out" : NULL;
}

const char *map_thp_zeroes(struct area *thp)
{
	const char *lack = map_for_thp(thp);

	if (lack)
		return lack;
	return !cpu_try(thp->at, CPU_READ) &&
	       pagemap_count(thp, PAGEMAP_PRESENT) == (long)THP_PAGES ?
	       NULL : "no huge zero page available";
}

const char *map_for_collapse(struct area *range)
{
	const char *lack = map_for_thp(range);

	if (lack)
		return lack;
	if (area_advise(range, MADV_NOHUGEPAGE))
		return "cannot keep khugepaged out";
	area_fill(range, 1);
	return NULL;
}

/*
 * Migration
 */

int ask_to_device(struct mirror *m, struct area *area, size_t page,
		  size_t pages)
{
	return mirror_call(m, HMM_DMIRROR_MIGRATE_TO_DEV, area_page(area, page),
			   pages, area->buffer);
}

int ask_to_system(struct mirror *m, struct area *area, size_t page,
		  size_t pages)
{
	return mirror_call(m, HMM_DMIRROR_MIGRATE_TO_SYS, area_page(area, page),
			   pages, area->buffer);
}

long held_part(struct mirror *m, const struct area *area, size_t page,
	       size_t pages)
{
	return mirror_holds(m, area_page(area, page), pages);
}

long held(struct mirror *m, const struct area *area)
{
	return held_part(m, area, 0, area->pages);
}

long to_device_part(struct mirror *m, struct area *area, size_t page,
		    size_t pages)
{
	long there = 0;

	eventually((ask_to_device(m, area, page, pages),
		    (there = held_part(m, area, page, pages)) == (long)pages));
	return there;
}

long to_device(struct mirror *m, struct area *area)
{
	return to_device_part(m, area, 0, area->pages);
}

long to_system_part(struct mirror *m, struct area *area, size_t page,
		    size_t pages)
{
	long there = 0;
	int ret = 0;

	eventually((ret = ask_to_system(m, area, page, pages)) ||
		   !(there = held_part(m, area, page, pages)));
	return ret ? ret : there;
}

long to_system(struct mirror *m, struct area *area)
{
	return to_system_part(m, area, 0, area->pages);
}

int unplug(struct mirror *m, const struct area *area)
{
	return mirror_call(m, HMM_DMIRROR_RELEASE, area->at, area->pages,
			   area->buffer);
}

/*
 * Exclusive access
 */

int make_exclusive_part(struct mirror *m, struct area *area, size_t page,
			size_t pages)
{
	return mirror_call(m, HMM_DMIRROR_EXCLUSIVE, area_page(area, page),
			   pages, area->buffer);
}

int make_exclusive(struct mirror *m, struct area *area)
{
	return make_exclusive_part(m, area, 0, area->pages);
}

int check_exclusive(struct mirror *m, const struct area *area, size_t page,
		    size_t pages)
{
	return mirror_call(m, HMM_DMIRROR_CHECK_EXCLUSIVE,
			   area_page(area, page), pages, NULL);
}

/*
 * The state of a page
 */

uint64_t pagemap_of(pid_t pid, const void *at)
{
	uint64_t entry = ~0ULL;
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, &entry, sizeof(entry),
			    (uintptr_t)at / PAGE * sizeof(entry)) !=
	    sizeof(entry))
		entry = ~0ULL;
	if (fd >= 0)
		close(fd);
	return entry;
}

uint64_t pagemap_entry(const void *at)
{
	return pagemap_of(getpid(), at);
}

long pagemap_count(const struct area *area, uint64_t bits)
{
	long count = 0;
	size_t i;

	for (i = 0; i < area->pages; i++)
		count += !!(pagemap_entry(area_page(area, i)) & bits);
	return count;
}

long smaps_pages(const void *at, const char *field)
{
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long start, end;
	size_t length = strlen(field);
	bool here = false;
	char line[512];
	long kib = -1;

	while (file && kib < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (uintptr_t)at && (uintptr_t)at < end;
		else if (here && !strncmp(line, field, length) &&
			 line[length] == ':')
			kib = strtol(line + length + 1, NULL, 10);
	}
	if (file)
		fclose(file);
	return kib < 0 ? -1 : kib / (long)(PAGE >> 10);
}

long pages_locked(void)
{
	race_write_file("/proc/sys/vm/stat_refresh", "1");
	return race_read_number("/proc/meminfo", "Mlocked") /
	       (long)(PAGE >> 10);
}

/* MemFree leaves out the lists of the CPUs, which grow with what is freed. */
long pages_free(void)
{
	FILE *file = fopen("/proc/zoneinfo", "r");
	long pages, sum = 0;
	char line[512];

	race_write_file("/proc/sys/vm/stat_refresh", "1");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " pages free %ld", &pages) == 1 ||
		    sscanf(line, " count: %ld", &pages) == 1)
			sum += pages;
	if (file)
		fclose(file);
	return file ? sum : -1;
}

long rss_now(void)
{
	return race_read_number("/proc/self/status", "RssAnon") /
	       (long)(PAGE >> 10);
}

/* The counters are per CPU and summed up in batches. */
bool rss_is(long expected)
{
	return labs(rss_now() - expected) <=
	       64 * sysconf(_SC_NPROCESSORS_CONF);
}

/*
 * Accesses of the CPU that may fail
 */

static sigjmp_buf access_failed;

static void catch_signal(int number)
{
	siglongjmp(access_failed, number);
}

static void access_byte(void *at, enum cpu_access access)
{
	volatile unsigned char *byte = at;
	unsigned char value = *byte;

	if (access == CPU_WRITE)
		*byte = value;
}

int cpu_try(void *at, enum cpu_access access)
{
	struct sigaction action = { .sa_handler = catch_signal };
	struct sigaction bus, segv;
	int number;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	number = sigsetjmp(access_failed, 1);
	if (!number)
		access_byte(at, access);
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return number;
}

/* The kernel sends SIGBUS to the caller of madvise(). */
int poison_page(void *at)
{
	struct sigaction action = { .sa_handler = catch_signal }, bus;
	volatile int error = 0;

	sigaction(SIGBUS, &action, &bus);
	if (!sigsetjmp(access_failed, 1))
		error = madvise(at, PAGE, MADV_HWPOISON) ? errno : 0;
	sigaction(SIGBUS, &bus, NULL);
	return error;
}

/*
 * Userfaultfd
 */

int userfault_open(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd >= 0 && ioctl(uffd, UFFDIO_API, &api)) {
		close(uffd);
		return -1;
	}
	return uffd;
}

int userfault_register(int uffd, const struct area *area, uint64_t mode)
{
	struct uffdio_register args = {
		.range.start = (uintptr_t)area->at,
		.range.len = area_size(area),
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_REGISTER, &args) ? -errno : 0;
}

int userfault_protect(int uffd, const struct area *area, size_t page,
		      size_t pages, uint64_t mode)
{
	struct uffdio_writeprotect args = {
		.range.start = (uintptr_t)area_page(area, page),
		.range.len = pages * PAGE,
		.mode = mode,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &args) ? -errno : 0;
}

int userfault_fill(int uffd, struct area *area, size_t page, uint64_t contents)
{
	struct uffdio_copy args = {
		.dst = (uintptr_t)area_page(area, page),
		.src = (uintptr_t)area->buffer,
		.len = PAGE,
	};

	contents_fill(area->buffer, page, 1, contents);
	return ioctl(uffd, UFFDIO_COPY, &args) ? -errno : 0;
}

/*
 * Other processes
 */

int peer_fork(struct peer *peer)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return -1;
	peer->pid = fork();
	peer->sock = pair[!peer->pid];
	close(pair[!!peer->pid]);
	return peer->pid < 0 ? -1 : 0;
}

int peer_fork_device(struct peer *peer, struct mirror *own, unsigned int nr)
{
	int ret = peer_fork(peer);

	return ret || peer->pid ? ret : mirror_open(own, nr);
}

int fork_and_exit(void)
{
	struct peer child;

	if (peer_fork(&child))
		return -1;
	if (!child.pid)
		_exit(0);
	return peer_end(&child);
}

bool peer_tell(struct peer *peer)
{
	return send(peer->sock, "", 1, MSG_NOSIGNAL) == 1;
}

bool peer_hear(struct peer *peer)
{
	char byte;

	return recv(peer->sock, &byte, 1, 0) == 1;
}

int peer_end(struct peer *peer)
{
	int status = -1;

	close(peer->sock);
	waitpid(peer->pid, &status, 0);
	return status;
}

/* Are so many pages free that nothing is killed for them? */
bool memory_for(size_t pages)
{
	return (size_t)sysconf(_SC_AVPHYS_PAGES) > pages;
}
