// SPDX-License-Identifier: GPL-2.0-only
/*
 * hmm-demo: a CPU and a device work on the same data structure.
 *
 * Build a search tree of malloc'ed nodes and let a device work on it at the
 * same addresses: the device reads the tree through its mirror, the pages
 * migrate to device memory, the device writes to them there, and the CPU walks
 * the tree again. The device follows the pointers that the CPU has stored.
 *
 * The device is the dummy device of the kernel, /dev/hmm_dmirror0. It can only
 * copy whole pages between a device address and a buffer. Therefore a walk by
 * the device is done in a copy of the pages that the device has read.
 *
 * Two interfaces of the kernel report the location of pages: the snapshot of
 * the mirror, and /proc/self/pagemap, where a page in device memory is not
 * present. They must agree. Checksums are compared after each step. The exit
 * status is 0 only if all comparisons succeed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <linux/const.h>
#include "../../lib/test_hmm_uapi.h"

#define NODES		6000
#define PAYLOAD_MAX	900
#define TRIES		5
#define PAGEMAP_PRESENT	_BITULL(63)
#define PAGEMAP_SWAP	_BITULL(62)

struct node {
	struct node *left;
	struct node *right;
	uint64_t key;
	uint64_t value;
	uint32_t size;
	unsigned char payload[];
};

/* A range of pages, and a view of it: shift is 0 for the view of the CPU. */
struct view {
	uintptr_t start;
	uintptr_t end;
	intptr_t shift;
};

struct sum {
	uint64_t nodes;
	uint64_t hash;
};

struct places {
	unsigned long system;
	unsigned long device;
	unsigned long absent;
};

struct step {
	const char *what;
	struct places places;
	struct sum sum;
	unsigned long dev_faults;
	unsigned long cpu_faults;
	unsigned long bytes;
	double ms;
};

struct demo {
	int device;
	int pagemap;
	size_t page_size;
	size_t npages;
	struct view cpu;
	struct node *root;
	unsigned char *copy;	/* pages read by the device */
	unsigned char *kinds;	/* snapshot, a byte per page */
	uint64_t *entries;	/* entries of pagemap */
	int wrong;
};

static void die(const char *what)
{
	fprintf(stderr, "hmm-demo: %s: %s\n", what, strerror(errno));
	exit(2);
}

static double now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static unsigned long cpu_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

/* --- the data structure ------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void insert(struct node **link, struct node *node)
{
	while (*link)
		link = node->key < (*link)->key ? &(*link)->left : &(*link)->right;
	*link = node;
}

static struct node *build_tree(struct view *view)
{
	uint64_t state = 0x9e3779b97f4a7c15ULL;
	struct node *root = NULL;

	view->start = UINTPTR_MAX;
	view->end = 0;
	for (int i = 0; i < NODES; i++) {
		uint32_t size = next_random(&state) % PAYLOAD_MAX;
		struct node *node = malloc(sizeof(*node) + size);
		uintptr_t first = (uintptr_t)node;

		if (!node)
			die("malloc");
		node->left = NULL;
		node->right = NULL;
		node->key = next_random(&state);
		node->value = next_random(&state);
		node->size = size;
		for (uint32_t b = 0; b < size; b++)
			node->payload[b] = next_random(&state);
		insert(&root, node);
		if (first < view->start)
			view->start = first;
		if (first + sizeof(*node) + size > view->end)
			view->end = first + sizeof(*node) + size;
	}
	return root;
}

/*
 * Translate a pointer to the view. A pointer out of range means that the device
 * did not read the data that the CPU wrote.
 */
static struct node *seen(const struct view *view, struct node *node)
{
	uintptr_t at = (uintptr_t)node;

	if (at < view->start || at > view->end - sizeof(*node))
		return NULL;
	return (struct node *)(at + view->shift);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * 0x100000001b3ULL;
}

static uint64_t node_hash(const struct node *node, uint64_t value)
{
	uint64_t hash = mix(mix(0xcbf29ce484222325ULL, node->key), value);

	for (uint32_t b = 0; b < node->size && b < PAYLOAD_MAX; b++)
		hash = mix(hash, node->payload[b]);
	return hash;
}

/* The change that the device makes; the CPU uses it to predict the sum. */
static uint64_t device_work(uint64_t value)
{
	return value * 6364136223846793005ULL + 1442695040888963407ULL;
}

/* Visit all nodes in the order of their keys. */
static struct sum walk(const struct view *view, struct node *root,
		       uint64_t (*work)(uint64_t), bool store)
{
	static struct node *stack[NODES];
	struct node *node = seen(view, root);
	struct sum sum = { 0 };
	unsigned int depth = 0;

	while ((node || depth) && sum.nodes < NODES) {
		while (node && depth < NODES) {
			stack[depth++] = node;
			node = node->left ? seen(view, node->left) : NULL;
		}
		node = stack[--depth];
		sum.hash = mix(sum.hash, node_hash(node, work ? work(node->value)
							     : node->value));
		if (store)
			node->value = work(node->value);
		sum.nodes++;
		node = node->right ? seen(view, node->right) : NULL;
	}
	return sum;
}

/* --- the device --------------------------------------------------------- */

static int command(struct demo *demo, unsigned long request, void *buffer,
		   struct step *step)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = demo->cpu.start,
		.ptr = (uintptr_t)buffer,
		.npages = demo->npages,
	};
	int rc;

	do {
		rc = ioctl(demo->device, request, &cmd);
	} while (rc && errno == EINTR);
	if (step) {
		step->dev_faults += cmd.faults;
		step->bytes += cmd.cpages * demo->page_size;
	}
	return rc ? -errno : 0;
}

static struct view device_view(const struct demo *demo)
{
	struct view view = demo->cpu;

	view.shift = (intptr_t)demo->copy - (intptr_t)view.start;
	return view;
}

static struct sum device_reads(struct demo *demo, struct step *step)
{
	struct view view = device_view(demo);

	memset(demo->copy, 0, demo->npages * demo->page_size);
	if (command(demo, HMM_DMIRROR_READ, demo->copy, step))
		die("the device cannot read the range");
	return walk(&view, demo->root, NULL, false);
}

/* --- location of the pages ---------------------------------------------- */

static struct places look(struct demo *demo)
{
	off_t at = demo->cpu.start / demo->page_size * sizeof(uint64_t);
	ssize_t size = demo->npages * sizeof(uint64_t);
	struct places places = { 0 };

	if (command(demo, HMM_DMIRROR_SNAPSHOT, demo->kinds, NULL))
		die("snapshot");
	if (pread(demo->pagemap, demo->entries, size, at) != size)
		die("/proc/self/pagemap");
	for (size_t i = 0; i < demo->npages; i++) {
		bool present = demo->entries[i] & PAGEMAP_PRESENT;
		bool swap = demo->entries[i] & PAGEMAP_SWAP;
		bool device = (demo->kinds[i] & 0xf0) ==
				HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;

		if (device)
			places.device++;
		else if (demo->kinds[i] & (HMM_DMIRROR_PROT_READ | HMM_DMIRROR_PROT_WRITE))
			places.system++;
		else
			places.absent++;
		if (device ? present || !swap : present != !!demo->kinds[i]) {
			printf("page %zu: snapshot %#x and pagemap %#llx disagree\n", i,
			       demo->kinds[i], (unsigned long long)demo->entries[i]);
			demo->wrong++;
		}
	}
	return places;
}

/* --- the steps ---------------------------------------------------------- */

static void report(struct demo *demo, struct step *step, struct sum expect,
		   struct places want)
{
	bool sum_ok = step->sum.hash == expect.hash && step->sum.nodes == NODES;
	bool place_ok = step->places.system == want.system &&
			step->places.device == want.device;

	printf("%-34s %6lu %6lu %6lu %7lu %7lu %9lu %8.1f  %016llx %s\n", step->what,
	       step->places.system, step->places.device, step->places.absent,
	       step->dev_faults, step->cpu_faults, step->bytes, step->ms,
	       (unsigned long long)step->sum.hash,
	       !sum_ok ? "WRONG SUM" : !place_ok ? "WRONG PLACE" : "ok");
	if (!sum_ok || !place_ok)
		demo->wrong++;
}

/* A page that is temporarily in use does not migrate, so retry. */
static void migrate_to_device(struct demo *demo, struct step *step)
{
	for (int i = 0; i < TRIES; i++) {
		int rc = command(demo, HMM_DMIRROR_MIGRATE_TO_DEV, demo->copy, step);

		if (rc && rc != -ENOENT) {
			errno = -rc;
			die("migration to the device");
		}
		if (!rc || look(demo).device == demo->npages)
			return;
	}
}

static void begin(struct step *step, const char *what)
{
	memset(step, 0, sizeof(*step));
	step->what = what;
	step->cpu_faults = cpu_faults();
	step->ms = now_ms();
}

static void end(struct demo *demo, struct step *step)
{
	step->ms = now_ms() - step->ms;
	step->cpu_faults = cpu_faults() - step->cpu_faults;
	step->places = look(demo);
}

static void tell(struct demo *demo)
{
	struct places all_system = { .system = demo->npages };
	struct places all_device = { .device = demo->npages };
	struct view view = device_view(demo);
	struct sum before, after;
	struct step step;

	begin(&step, "CPU built the tree, walks it");
	before = walk(&demo->cpu, demo->root, NULL, false);
	after = walk(&demo->cpu, demo->root, device_work, false);
	step.sum = before;
	end(demo, &step);
	report(demo, &step, before, all_system);

	begin(&step, "device reads through the mirror");
	step.sum = device_reads(demo, &step);
	end(demo, &step);
	report(demo, &step, before, all_system);

	begin(&step, "pages migrate to the device");
	migrate_to_device(demo, &step);
	step.sum = device_reads(demo, &(struct step){ 0 });
	end(demo, &step);
	report(demo, &step, before, all_device);

	/* The device changes the pages that it has read, and writes them back. */
	begin(&step, "device writes, in its memory");
	walk(&view, demo->root, device_work, true);
	if (command(demo, HMM_DMIRROR_WRITE, demo->copy, &step))
		die("the device cannot write the range");
	step.sum = device_reads(demo, &(struct step){ 0 });
	end(demo, &step);
	report(demo, &step, after, all_device);

	begin(&step, "CPU walks it, faulting it back");
	step.sum = walk(&demo->cpu, demo->root, NULL, false);
	end(demo, &step);
	step.bytes = (demo->npages - step.places.device) * demo->page_size;
	report(demo, &step, after, all_system);

	begin(&step, "to the device, driver evicts it");
	migrate_to_device(demo, &step);
	if (look(demo).device != demo->npages)
		demo->wrong++;
	if (command(demo, HMM_DMIRROR_MIGRATE_TO_SYS, demo->copy, &step))
		die("migration to the system");
	step.sum = walk(&demo->cpu, demo->root, NULL, false);
	end(demo, &step);
	report(demo, &step, after, all_system);
}

static void *map(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

int main(void)
{
	static char out[8192];
	struct demo demo = { .page_size = sysconf(_SC_PAGESIZE) };

	/* Allocate nothing else on the heap after the tree. */
	setvbuf(stdout, out, _IOLBF, sizeof(out));
	demo.device = open("/dev/hmm_dmirror0", O_RDWR);
	if (demo.device < 0)
		die("/dev/hmm_dmirror0 (is test_hmm loaded?)");
	demo.pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (demo.pagemap < 0)
		die("/proc/self/pagemap");

	demo.root = build_tree(&demo.cpu);
	demo.cpu.start &= ~(demo.page_size - 1);
	demo.cpu.end = (demo.cpu.end + demo.page_size - 1) & ~(demo.page_size - 1);
	demo.npages = (demo.cpu.end - demo.cpu.start) / demo.page_size;
	demo.copy = map(demo.npages * demo.page_size);
	demo.kinds = map(demo.npages);
	demo.entries = map(demo.npages * sizeof(uint64_t));

	printf("a tree of %d nodes in %zu pages of malloc'ed memory at %#lx\n\n",
	       NODES, demo.npages, (unsigned long)demo.cpu.start);
	printf("%-34s %6s %6s %6s %7s %7s %9s %8s  %s\n", "", "pages:", "", "",
	       "faults:", "", "bytes", "time", "checksum");
	printf("%-34s %6s %6s %6s %7s %7s %9s %8s\n", "step", "system", "device",
	       "absent", "device", "CPU", "moved", "ms");
	tell(&demo);
	printf("\n%s\n", demo.wrong ? "hmm-demo: FAILED" :
	       "hmm-demo: all checksums and page locations are correct");
	return demo.wrong ? 1 : 0;
}
