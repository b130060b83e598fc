// SPDX-License-Identifier: GPL-2.0-only
/*
 * An example of a driver that uses HMM: mirroring and device-private memory.
 * Documentation/mm/hmm-driver-guide.rst explains it.
 *
 * The device has memory, which is vmalloc()ed, and an engine, which is the calling
 * CPU: it adds to 64-bit words of the process. All else is what a real driver does.
 * Locks, in the order in which they are taken:
 *
 *	client.job		one job of a file at a time; held around faults
 *	  mmap lock
 *	    example_unplug	for read where the device is used, not around faults
 *	      example_evict_lock
 *	        page lock	migrate_to_ram() is called with it
 *	          client.lock	invalidate(), and the engine while it uses the window:
 *				nothing faults, migrates or allocates under it
 */
#include <linux/bitmap.h>
#include <linux/delay.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <uapi/misc/hmm_example.h>

#define EXAMPLE_PAGES	(HMM_EXAMPLE_MEMORY / PAGE_SIZE)
#define EXAMPLE_BATCH	64	/* pages of a migration or a window, divides EXAMPLE_PAGES */

/* An open file. The window is the page table of the device. */
struct example_client {
	struct mutex job;		/* protects pfns[] */
	unsigned long pfns[EXAMPLE_BATCH]; /* no references: see invalidate() */
	struct mutex lock;		/* protects start and end */
	unsigned long start, end;	/* of the window; end 0: closed */
	struct mmu_interval_notifier notifier;
};

static DECLARE_RWSEM(example_unplug);
static bool example_online;
static struct dev_pagemap example_pagemap;
static void *example_vram;		/* the device memory, until example_exit() */
static DECLARE_BITMAP(example_used, EXAMPLE_PAGES);
static DEFINE_MUTEX(example_evict_lock);

/* Use the device: until up_read() it is not unplugged. */
static int example_enter(void)
{
	if (down_read_killable(&example_unplug))
		return -EINTR;
	if (example_online)
		return 0;
	up_read(&example_unplug);
	return -ENODEV;
}

static unsigned long example_index(struct page *page)
{
	return page_to_pfn(page) - PHYS_PFN(example_pagemap.range.start);
}

/* Where the CPU, which plays the engine, finds the content of a page. */
static void *example_data(struct page *page)
{
	return is_device_private_page(page) ?
		example_vram + (example_index(page) << PAGE_SHIFT) :
		page_address(page);
}

/* Returns a page locked and with one reference, as migration wants it. */
static struct page *example_alloc_device_page(void)
{
	struct page *page;
	unsigned long i;

	do {
		i = find_first_zero_bit(example_used, EXAMPLE_PAGES);
		if (i >= EXAMPLE_PAGES)
			return NULL;
	} while (test_and_set_bit(i, example_used));
	page = pfn_to_page(PHYS_PFN(example_pagemap.range.start) + i);
	zone_device_page_init(page);
	return page;
}

/* The last reference to a device page is gone. May not sleep. */
static void example_page_free(struct page *page)
{
	clear_bit_unlock(example_index(page), example_used);
}

/* An eviction has no @vma. It can wait for memory, so no process is killed for it. */
static struct page *example_alloc_system_page(struct vm_area_struct *vma, unsigned long addr)
{
	struct page *page = vma ?
		alloc_page_vma(GFP_HIGHUSER_MOVABLE, vma, addr) :
		alloc_page(GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);

	if (page)
		lock_page(page);
	return page;
}

/*
 * Fill dst[]; 0 leaves a page where it is, and a hole is filled on the device only. The
 * device cannot write meanwhile: it was invalidated. Returns how many found no memory.
 */
static unsigned long example_copy(struct migrate_vma *args)
{
	bool to_device = args->flags & MIGRATE_VMA_SELECT_SYSTEM;
	unsigned long i, addr = args->start, missing = 0;
	struct page *from, *to;

	for (i = 0; i < args->npages; i++, addr += PAGE_SIZE) {
		args->dst[i] = 0;
		from = migrate_pfn_to_page(args->src[i]);
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE) || (!from && !to_device))
			continue;
		to = to_device ? example_alloc_device_page() :
				 example_alloc_system_page(args->vma, addr);
		missing += !to;
		if (!to)
			continue;
		args->dst[i] = migrate_pfn(page_to_pfn(to));
		if (from)
			copy_page(example_data(to), example_data(from));
		else	/* a hole, or the zero page */
			clear_page(example_data(to));
	}
	return missing;
}

/* Returns how many pages moved, or an error. */
static long example_move(struct migrate_vma *args, unsigned long *missing)
{
	long moved = 0, ret = migrate_vma_setup(args);
	unsigned long i;

	if (ret)
		return ret;
	*missing = example_copy(args);
	migrate_vma_pages(args);
	for (i = 0; i < args->npages; i++)
		moved += args->dst[i] && args->src[i] & MIGRATE_PFN_MIGRATE;
	migrate_vma_finalize(args);
	return moved;
}

/* Evict until @want pages are free, but go round the memory once only. */
static void example_evict(unsigned long want)
{
	static unsigned long src[EXAMPLE_BATCH], dst[EXAMPLE_BATCH], hand;
	struct migrate_vma args = { .src = src, .dst = dst, .npages = EXAMPLE_BATCH };
	unsigned long seen;

	mutex_lock(&example_evict_lock);
	for (seen = 0; seen < EXAMPLE_PAGES; seen += EXAMPLE_BATCH) {
		if (EXAMPLE_PAGES - bitmap_weight(example_used, EXAMPLE_PAGES) >= want)
			break;
		migrate_device_range(src, PHYS_PFN(example_pagemap.range.start) + hand,
				     EXAMPLE_BATCH);
		example_copy(&args);
		migrate_device_pages(src, dst, EXAMPLE_BATCH);
		migrate_device_finalize(src, dst, EXAMPLE_BATCH);
		hand = (hand + EXAMPLE_BATCH) % EXAMPLE_PAGES;
		cond_resched();
	}
	mutex_unlock(&example_evict_lock);
}

/* Move from args->start to @end or less: args->end. A full device gets a second try. */
static long example_migrate_batch(struct migrate_vma *args, unsigned long end)
{
	unsigned long missing;
	long moved, more = 0;

	args->vma = vma_lookup(current->mm, args->start);
	if (!args->vma)
		return -EFAULT;
	args->end = min3(PAGE_ALIGN(end), args->vma->vm_end,
			 args->start + EXAMPLE_BATCH * PAGE_SIZE);
	moved = example_move(args, &missing);
	if (moved >= 0 && missing && args->flags & MIGRATE_VMA_SELECT_SYSTEM) {
		example_evict(missing);
		more = example_move(args, &missing);
	}
	return more < 0 ? more : moved + more;
}

/* Move what can move: a pinned page, for example, stays where it is. */
static long example_migrate(unsigned long start, unsigned long end, unsigned long select,
			    u64 *total)
{
	unsigned long src[EXAMPLE_BATCH], dst[EXAMPLE_BATCH];
	struct migrate_vma args = { .src = src, .dst = dst, .flags = select,
				    .pgmap_owner = &example_pagemap };
	long ret = 0;

	for (start &= PAGE_MASK; ret >= 0 && start < end; start = args.end) {
		args.start = start;
		if (fatal_signal_pending(current) || mmap_read_lock_killable(current->mm))
			return -EINTR;
		ret = example_enter();
		if (!ret) {
			ret = example_migrate_batch(&args, end);
			up_read(&example_unplug);
		}
		mmap_read_unlock(current->mm);
		*total += max(ret, 0);
	}
	return min(ret, 0);
}

/* The CPU has touched a page that is on the device. The fault holds and locks it. */
static vm_fault_t example_migrate_to_ram(struct vm_fault *vmf)
{
	unsigned long src = 0, dst = 0, missing;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = vmf->address & PAGE_MASK,
		.end = (vmf->address & PAGE_MASK) + PAGE_SIZE,
		.src = &src, .dst = &dst,
		.pgmap_owner = &example_pagemap,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};

	if (example_move(&args, &missing) < 0)
		return VM_FAULT_SIGBUS;
	/* What did not move for another reason is tried again by the CPU. */
	return missing ? VM_FAULT_OOM : 0;
}

static const struct dev_pagemap_ops example_pagemap_ops = {
	.page_free = example_page_free,
	.migrate_to_ram = example_migrate_to_ram,
};

static struct dev_pagemap example_pagemap = {
	.type = MEMORY_DEVICE_PRIVATE,
	.nr_range = 1,
	.ops = &example_pagemap_ops,
	.owner = &example_pagemap,
};

/*
 * The page tables of the process are about to change. When this returns, the device does
 * not use the old ones: the lock keeps the engine out, a real driver flushes a TLB, too.
 */
static bool example_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range, unsigned long seq)
{
	struct example_client *client =
		container_of(notifier, struct example_client, notifier);

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&client->lock);
	else if (!mutex_trylock(&client->lock))
		return false;
	mmu_interval_set_seq(notifier, seq);
	if (range->start < client->end && range->end > client->start)
		client->end = 0;
	mutex_unlock(&client->lock);
	return true;
}

static const struct mmu_interval_notifier_ops example_notifier_ops = {
	.invalidate = example_invalidate,
};

/*
 * Move the window to @addr. Ask for as much as the job may need next, but for no more
 * access: a write breaks COW. If the results are stale, the window stays closed.
 */
static int example_fault(struct example_client *client, unsigned long addr,
			 unsigned long end, bool write)
{
	struct hmm_range range = {
		.notifier = &client->notifier,
		.start = addr & PAGE_MASK,
		.end = min(PAGE_ALIGN(end), (addr & PAGE_MASK) + EXAMPLE_BATCH * PAGE_SIZE),
		.hmm_pfns = client->pfns,
		.default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0),
		.dev_private_owner = &example_pagemap,
	};
	int ret = hmm_range_fault_unlocked_timeout(&range, 0);

	if (ret)
		return ret;
	mutex_lock(&client->lock);
	if (!mmu_interval_read_retry(&client->notifier, range.notifier_seq)) {
		client->start = range.start;
		client->end = range.end;
	}
	mutex_unlock(&client->lock);
	/* A page that has to move and cannot yet is not writable: try later. */
	if (write && !(client->pfns[0] & HMM_PFN_WRITE))
		schedule_timeout_killable(1);
	return 0;
}

/* Returns NULL, with the window closed, if the device has to fault. */
static u64 *example_translate(struct example_client *client, unsigned long addr, bool write)
{
	unsigned long pfn = 0;

	if (addr >= client->start && addr < client->end)
		pfn = client->pfns[(addr - client->start) >> PAGE_SHIFT];
	if (pfn & (write ? HMM_PFN_WRITE : HMM_PFN_VALID))
		return example_data(hmm_pfn_to_page(pfn)) + offset_in_page(addr);
	client->end = 0;
	return NULL;
}

/* Add to the word at @addr, or only read it. The job goes on to @end. */
static int example_access(struct example_client *client, unsigned long addr,
			  unsigned long end, u64 add, u64 *value)
{
	u64 *word;
	int ret;

	do {
		cond_resched();
		ret = fatal_signal_pending(current) ? -EINTR : example_enter();
		if (ret)
			return ret;
		mutex_lock(&client->lock);
		word = example_translate(client, addr, add);
		if (word && add)
			*word += add;
		if (word)
			*value = *word;
		mutex_unlock(&client->lock);
		up_read(&example_unplug);
		if (!word)
			ret = example_fault(client, addr, end, add);
	} while (!word && !ret);
	return ret;
}

/* The addresses come from memory of the process, so trust none of them. */
static int example_list(struct example_client *client, u64 addr, u64 nodes, u64 *sum)
{
	struct hmm_example_node node;
	unsigned long end;
	int ret = 0;

	for (; addr && !ret; addr = node.next) {
		if (!nodes--)
			return -E2BIG;
		addr = untagged_addr(addr);
		if (!IS_ALIGNED(addr, sizeof(node)) || addr >= TASK_SIZE)
			return -EFAULT;
		end = addr + sizeof(node);
		ret = example_access(client, addr, end, 0, &node.next) ?:
		      example_access(client, addr + sizeof(u64), end, 0, &node.value);
		*sum += ret ? 0 : node.value;
	}
	return ret;
}

static int example_command(struct example_client *client, unsigned int cmd,
			   struct hmm_example_args *args)
{
	u64 word, add = cmd == HMM_EXAMPLE_ADD ? args->value : 0;
	unsigned long end, addr = untagged_addr(args->addr);
	int ret = 0;

	args->value = 0;
	if (cmd == HMM_EXAMPLE_LIST)
		return example_list(client, addr, args->len, &args->value);
	if (!args->len || !IS_ALIGNED(addr | args->len, sizeof(u64)) ||
	    check_add_overflow(addr, args->len, &end) || end > TASK_SIZE)
		return -EINVAL;
	if (cmd == HMM_EXAMPLE_TO_DEVICE)
		return example_migrate(addr, end, MIGRATE_VMA_SELECT_SYSTEM, &args->value);
	if (cmd == HMM_EXAMPLE_TO_SYSTEM)
		return example_migrate(addr, end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, &args->value);
	for (; addr < end && !ret; addr += sizeof(word)) {
		ret = example_access(client, addr, end, add, &word);
		args->value += ret ? 0 : word;
	}
	return ret;
}

/* A child that inherits the file has another address space. */
static long example_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct example_client *client = file->private_data;
	struct hmm_example_args args;
	void __user *user = (void __user *)arg;
	int ret;

	if (cmd < HMM_EXAMPLE_SUM || cmd > HMM_EXAMPLE_TO_SYSTEM)
		return -ENOTTY;
	if (client->notifier.mm != current->mm)
		return -EPERM;
	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (mutex_lock_killable(&client->job))
		return -EINTR;
	ret = example_command(client, cmd, &args);
	mutex_unlock(&client->job);
	return ret ?: copy_to_user(user, &args, sizeof(args)) ? -EFAULT : 0;
}

static int example_open(struct inode *inode, struct file *file)
{
	struct example_client *client = kzalloc(sizeof(*client), GFP_KERNEL);
	int ret;

	if (!client)
		return -ENOMEM;
	mutex_init(&client->job);
	mutex_init(&client->lock);
	ret = mmu_interval_notifier_insert(&client->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK, &example_notifier_ops);
	if (ret)
		kfree(client);
	else
		file->private_data = client;
	return ret;
}

static int example_release(struct inode *inode, struct file *file)
{
	struct example_client *client = file->private_data;

	mmu_interval_notifier_remove(&client->notifier);
	kfree(client);
	return 0;
}

static const struct file_operations example_fops = {
	.owner = THIS_MODULE,
	.open = example_open,
	.release = example_release,
	.unlocked_ioctl = example_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice example_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hmm_example",
	.fops = &example_fops,
};

static void example_set_online(bool online)
{
	down_write(&example_unplug);
	example_online = online;
	up_write(&example_unplug);
}

/* There is one device, so its state is static. Devres undoes this after example_remove(). */
static int example_probe(struct platform_device *pdev)
{
	struct device *dev = &pdev->dev;
	struct resource *res;
	int ret;

	example_vram = example_vram ?: vzalloc(HMM_EXAMPLE_MEMORY);
	if (!example_vram)
		return -ENOMEM;
	res = devm_request_free_mem_region(dev, &iomem_resource, HMM_EXAMPLE_MEMORY);
	if (IS_ERR(res))
		return PTR_ERR(res);
	example_pagemap.range.start = res->start;
	example_pagemap.range.end = res->end;
	ret = PTR_ERR_OR_ZERO(devm_memremap_pages(dev, &example_pagemap)) ?:
	      misc_register(&example_misc);
	if (!ret)
		example_set_online(true);
	return ret;
}

/*
 * Files may be open: their processes go on with data in system memory, and -ENODEV. A page
 * that is locked, or for which there is no memory, moves a little later.
 */
static void example_remove(struct platform_device *pdev)
{
	unsigned int rounds = 0;

	misc_deregister(&example_misc);
	example_set_online(false);
	while (!bitmap_empty(example_used, EXAMPLE_PAGES)) {
		example_evict(EXAMPLE_PAGES);
		if (++rounds % 500 == 0)
			dev_warn(&pdev->dev, "device pages are still in use\n");
		msleep(20);
	}
}

static struct platform_driver example_driver = {
	.probe = example_probe,
	.remove = example_remove,
	.driver.name = "hmm_example",
};

static struct platform_device *example_device;

static int __init example_init(void)
{
	int ret;

	example_device = platform_device_register_simple(example_driver.driver.name,
							 PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(example_device))
		return PTR_ERR(example_device);
	ret = platform_driver_register(&example_driver);
	if (ret)
		platform_device_unregister(example_device);
	return ret;
}

static void __exit example_exit(void)
{
	platform_driver_unregister(&example_driver);
	platform_device_unregister(example_device);
	vfree(example_vram);
}

module_init(example_init);
module_exit(example_exit);
MODULE_DESCRIPTION("Example of a driver that uses HMM");
MODULE_LICENSE("GPL");
