// SPDX-License-Identifier: GPL-2.0-only
/*
 * An example of a driver that uses HMM: mirroring and device-private memory. It is explained in
 * Documentation/mm/hmm-driver-guide.rst. The device has memory, which is vmalloc()ed, and an
 * engine, which is the calling CPU: it adds to 64-bit words of the process.
 *
 * Locks, outermost first: client.job (held around faults), the mmap lock, example_unplug
 * (not held around faults), example_evict_lock, the page lock (migrate_to_ram() is called
 * with it), client.lock (nothing faults, migrates or allocates under it).
 */
#include <linux/delay.h>
#include <linux/genalloc.h>
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

#define EXAMPLE_BATCH	(SZ_2M / PAGE_SIZE)	/* pages of a migration, folio or window */

/* An open file. The window is the page table of the device. */
struct example_client {
	struct mutex job;		/* one at a time; protects window and arrays */
	struct hmm_range window;	/* valid while its notifier_seq is */
	unsigned long pfns[EXAMPLE_BATCH]; /* of the window; no references: see invalidate() */
	unsigned long src[EXAMPLE_BATCH], dst[EXAMPLE_BATCH];
	struct mutex lock;		/* held where the window is used */
	struct mmu_interval_notifier notifier;
};

static struct platform_device *example_dev;
static DECLARE_RWSEM(example_unplug);
static bool example_online;
static struct dev_pagemap example_pagemap;
static void *example_vram;		/* the device memory, until example_exit() */
static struct gen_pool *example_pool;	/* free device memory */
static DEFINE_MUTEX(example_evict_lock);

/* Use the device: until up_read() it is not unplugged. */
static int example_enter(void)
{
	if (fatal_signal_pending(current) || down_read_killable(&example_unplug))
		return -EINTR;
	if (example_online)
		return 0;
	up_read(&example_unplug);
	return -ENODEV;
}

/* Address of the content of a page for the CPU, which plays the engine. */
static void *example_data(struct page *page)
{
	return is_device_private_page(page) ?
		example_vram + (PFN_PHYS(page_to_pfn(page)) - example_pagemap.range.start) :
		page_address(page);
}

/* Returns a folio locked and with one reference, as migration wants it. */
static struct folio *example_alloc_device(int order)
{
	phys_addr_t addr = gen_pool_alloc(example_pool, PAGE_SIZE << order);
	struct folio *folio = addr ? pfn_folio(PHYS_PFN(addr)) : NULL;

	if (folio)
		zone_device_folio_init(folio, &example_pagemap, order);
	return folio;
}

/* The last reference is gone. May not sleep. After a split it is a part that is freed. */
static void example_folio_free(struct folio *folio)
{
	gen_pool_free(example_pool, PFN_PHYS(folio_pfn(folio)), folio_size(folio));
}

/*
 * An eviction has no VMA, and the policy of the caller is that of another process. No process is
 * killed for it, nor for a large folio.
 */
static struct folio *example_alloc_system(struct migrate_vma *args, unsigned long i, int order)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | (order ? __GFP_NORETRY | __GFP_NOWARN :
					    !args->vma ? __GFP_RETRY_MAYFAIL | __GFP_NOWARN : 0);
	struct folio *folio = !args->vma ? __folio_alloc_node(gfp, order, numa_mem_id()) :
		vma_alloc_folio(gfp, order, args->vma, args->start + i * PAGE_SIZE, order);

	if (folio)
		folio_lock(folio);
	return folio;
}

/* The order of the folio or hole of an entry of src[]. A large hole has that of a PMD. */
static int example_order(unsigned long mpfn)
{
	struct page *page = migrate_pfn_to_page(mpfn);

	if (!(mpfn & MIGRATE_PFN_COMPOUND))
		return 0;
	return page ? folio_order(page_folio(page)) : PMD_ORDER;
}

/* Fill an entry of dst[], with zeroes for a hole or the zero page. False: out of memory. */
static bool example_copy(struct migrate_vma *args, unsigned long i, struct page *from, int order)
{
	struct folio *to = args->flags & MIGRATE_VMA_SELECT_SYSTEM ?
		example_alloc_device(order) : example_alloc_system(args, i, order);

	if (!to)
		return false;
	if (from)
		memcpy(example_data(&to->page), example_data(from), PAGE_SIZE << order);
	else
		memset(example_data(&to->page), 0, PAGE_SIZE << order);
	args->dst[i] = migrate_pfn(folio_pfn(to)) | (order ? MIGRATE_PFN_COMPOUND : 0);
	return true;
}

/*
 * Fill dst[]; 0 leaves a page where it is. Only the device gets holes, and no pages of files.
 * Without a large folio take pages, if there is room for all. Returns how many found no memory.
 */
static unsigned long example_copy_all(struct migrate_vma *args)
{
	bool to_device = args->flags & MIGRATE_VMA_SELECT_SYSTEM;
	unsigned long i, k, nr, missing = 0;
	struct page *from;

	for (i = 0; i < args->npages; i++) {	/* zeroes follow the entry of a large folio */
		from = migrate_pfn_to_page(args->src[i]);
		if (!(args->src[i] & MIGRATE_PFN_MIGRATE) ||
		    (from ? to_device && !PageAnon(from) : !to_device) ||
		    example_copy(args, i, from, example_order(args->src[i])))
			continue;
		nr = 1UL << example_order(args->src[i]);
		if (nr == 1 || (to_device && gen_pool_avail(example_pool) < nr * PAGE_SIZE))
			missing += nr;
		else
			for (k = 0; k < nr; k++)
				missing += !example_copy(args, i + k, from ? from + k : NULL, 0);
	}
	return missing;
}

/* Counts the pages that moved, and those without memory. Of these, none moves above @most. */
static int example_move(struct migrate_vma *args, unsigned long most, u64 *moved,
			unsigned long *missing)
{
	int ret = migrate_vma_setup(args);

	if (ret)
		return ret;
	*missing = example_copy_all(args);
	if (*missing <= most) {
		migrate_vma_pages(args);
		for (unsigned long i = 0; i < args->npages; i++)
			if (args->src[i] & MIGRATE_PFN_MIGRATE)
				*moved += 1UL << example_order(args->src[i]);
	}
	migrate_vma_finalize(args);
	return 0;
}

/* Evict until @want bytes are free, but go round the memory once only. */
static void example_evict(size_t want)
{
	static unsigned long src[EXAMPLE_BATCH], dst[EXAMPLE_BATCH], hand;
	struct migrate_vma args = { .src = src, .dst = dst, .npages = EXAMPLE_BATCH };

	guard(mutex)(&example_evict_lock);
	for (int n = HMM_EXAMPLE_MEMORY / SZ_2M; n && gen_pool_avail(example_pool) < want; n--) {
		migrate_device_range(src, PHYS_PFN(example_pagemap.range.start + hand),
				     EXAMPLE_BATCH);
		memset(dst, 0, sizeof(dst));	/* migrate_vma_setup() does so, this does not */
		example_copy_all(&args);
		migrate_device_pages(src, dst, EXAMPLE_BATCH);
		migrate_device_finalize(src, dst, EXAMPLE_BATCH);
		hand = (hand + SZ_2M) % HMM_EXAMPLE_MEMORY;
	}
}

/* Move from args->start to @end or less: args->end. Make room first: it may evict new arrivals. */
static int example_migrate_batch(struct migrate_vma *args, unsigned long end, u64 *moved)
{
	bool to_device = args->flags & MIGRATE_VMA_SELECT_SYSTEM;
	unsigned long missing;
	int ret;

	args->vma = vma_lookup(current->mm, args->start);
	if (!args->vma)
		return -EFAULT;
	args->end = min3(PAGE_ALIGN(end), args->vma->vm_end, ALIGN(args->start + 1, SZ_2M));
	ret = example_move(args, to_device ? 0 : ULONG_MAX, moved, &missing);
	if (ret || !missing || !to_device)
		return ret;
	example_evict(args->end - args->start);
	return example_move(args, ULONG_MAX, moved, &missing);
}

/* Move the pages that can move: one that is pinned, for example, stays. */
static int example_migrate(struct example_client *client, u64 addr, u64 end, int select, u64 *moved)
{
	struct migrate_vma args = { .src = client->src, .dst = client->dst,
				    .flags = select | MIGRATE_VMA_SELECT_COMPOUND,
				    .pgmap_owner = &example_pagemap };
	int ret = 0;

	for (addr &= PAGE_MASK; !ret && addr < end; addr = args.end) {
		args.start = addr;
		if (mmap_read_lock_killable(current->mm))
			return -EINTR;
		ret = example_enter();
		if (!ret) {
			ret = example_migrate_batch(&args, end, moved);
			up_read(&example_unplug);
		}
		mmap_read_unlock(current->mm);
	}
	return ret;
}

/* The CPU has touched a page on the device. Its folio returns, as far as it is in the VMA. */
static vm_fault_t example_migrate_to_ram(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	unsigned long nr = folio_nr_pages(folio), addr = vmf->address & PAGE_MASK, missing;
	unsigned long before = folio_page_idx(folio, vmf->page) * PAGE_SIZE;
	unsigned long *pfns = kmalloc_array(2 * nr, sizeof(*pfns), GFP_KERNEL);
	struct migrate_vma args = {
		.vma = vmf->vma, .fault_page = vmf->page,
		.start = addr - min(before, addr - vmf->vma->vm_start),
		.end = addr + min(nr * PAGE_SIZE - before, vmf->vma->vm_end - addr),
		.src = pfns, .dst = pfns + nr,
		.pgmap_owner = &example_pagemap,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE | MIGRATE_VMA_SELECT_COMPOUND,
	};
	u64 moved = 0;
	int ret;

	if (!pfns)
		return VM_FAULT_OOM;
	ret = example_move(&args, ULONG_MAX, &moved, &missing);
	kfree(pfns);
	if (ret)
		return VM_FAULT_SIGBUS;
	/* If the page stays for another reason, the CPU faults again. */
	return missing && !moved ? VM_FAULT_OOM : 0;
}

static const struct dev_pagemap_ops example_pagemap_ops = {
	.folio_free = example_folio_free,
	.migrate_to_ram = example_migrate_to_ram,
};

static struct dev_pagemap example_pagemap = {
	.type = MEMORY_DEVICE_PRIVATE,
	.nr_range = 1,
	.ops = &example_pagemap_ops,
	.owner = &example_pagemap,
};

/* When this returns, the engine does not use the window. A real driver flushes a TLB, too. */
static bool example_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range, unsigned long seq)
{
	struct example_client *client = container_of(notifier, struct example_client, notifier);

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&client->lock);
	else if (!mutex_trylock(&client->lock))
		return false;
	mmu_interval_set_seq(notifier, seq);
	mutex_unlock(&client->lock);
	return true;
}

static const struct mmu_interval_notifier_ops example_notifier_ops = {
	.invalidate = example_invalidate,
};

/* Move the window to @addr. Ask for no more access than the job needs: a write breaks COW. */
static int example_fault(struct hmm_range *window, u64 addr, u64 end, bool write)
{
	int ret;

	window->start = addr & PAGE_MASK;
	window->end = min(PAGE_ALIGN(end), window->start + EXAMPLE_BATCH * PAGE_SIZE);
	window->default_flags = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0);
	ret = hmm_range_fault_unlocked_timeout(window, 0);
	if (ret)
		window->end = 0;
	else if (write && !(window->hmm_pfns[0] & HMM_PFN_WRITE))
		/* A page that has to move and cannot yet is not writable: try later. */
		schedule_timeout_killable(1);
	return ret;
}

/* Returns NULL if the device has to fault. */
static u64 *example_translate(struct hmm_range *window, u64 addr, bool write)
{
	unsigned long pfn;

	if (addr < window->start || addr >= window->end ||
	    mmu_interval_read_retry(window->notifier, window->notifier_seq))
		return NULL;
	pfn = window->hmm_pfns[(addr - window->start) >> PAGE_SHIFT];
	if (!(pfn & (write ? HMM_PFN_WRITE : HMM_PFN_VALID)))
		return NULL;
	return example_data(hmm_pfn_to_page(pfn)) + offset_in_page(addr);
}

/* Add @add, or nothing, to each word, and the words to @sum. */
static int example_run(struct example_client *client, u64 addr, u64 end, u64 add, u64 *sum)
{
	u64 *word;
	int ret = 0;

	while (!ret && addr < end) {
		cond_resched();
		ret = example_enter();
		if (ret)
			break;
		mutex_lock(&client->lock);
		while (addr < end && (word = example_translate(&client->window, addr, add))) {
			if (add)
				*word += add;
			*sum += *word;
			addr += sizeof(*word);
		}
		mutex_unlock(&client->lock);
		up_read(&example_unplug);
		if (addr < end)
			ret = example_fault(&client->window, addr, end, add);
	}
	return ret;
}

/* The addresses come from memory of the process, so trust none of them. */
static int example_list(struct example_client *client, u64 addr, u64 nodes, u64 *sum)
{
	u64 next;
	int ret = 0;

	for (; addr && !ret; addr = untagged_addr(next)) {
		if (!nodes--)
			return -E2BIG;
		if (!IS_ALIGNED(addr, sizeof(struct hmm_example_node)) || addr >= TASK_SIZE)
			return -EFAULT;
		next = 0;
		ret = example_run(client, addr, addr + sizeof(next), 0, &next) ?:
		      example_run(client, addr + sizeof(next), addr + 2 * sizeof(next), 0, sum);
	}
	return ret;
}

static int example_command(struct example_client *client, unsigned int cmd,
			   struct hmm_example_args *args)
{
	u64 *value = &args->value, add = cmd == HMM_EXAMPLE_ADD ? *value : 0;
	unsigned long end, addr = untagged_addr(args->addr);

	*value = 0;
	if (cmd == HMM_EXAMPLE_LIST)
		return example_list(client, addr, args->len, value);
	if (!args->len || !IS_ALIGNED(addr | args->len, sizeof(u64)) ||
	    check_add_overflow(addr, args->len, &end) || end > TASK_SIZE)
		return -EINVAL;
	if (cmd == HMM_EXAMPLE_TO_DEVICE)
		return example_migrate(client, addr, end, MIGRATE_VMA_SELECT_SYSTEM, value);
	if (cmd == HMM_EXAMPLE_TO_SYSTEM)
		return example_migrate(client, addr, end, MIGRATE_VMA_SELECT_DEVICE_PRIVATE, value);
	return example_run(client, addr, end, add, value);
}

/* A child that inherits the file has another address space. */
static long example_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct example_client *client = file->private_data;
	struct hmm_example_args args;
	int ret;

	if (cmd < HMM_EXAMPLE_SUM || cmd > HMM_EXAMPLE_TO_SYSTEM)
		return -ENOTTY;
	if (client->notifier.mm != current->mm)
		return -EPERM;
	if (copy_from_user(&args, (void __user *)arg, sizeof(args)))
		return -EFAULT;
	if (mutex_lock_killable(&client->job))
		return -EINTR;
	ret = example_command(client, cmd, &args);
	mutex_unlock(&client->job);
	return ret ?: copy_to_user((void __user *)arg, &args, sizeof(args)) ? -EFAULT : 0;
}

static int example_open(struct inode *inode, struct file *file)
{
	struct example_client *client __free(kvfree) = kvzalloc(sizeof(*client), GFP_KERNEL);
	int ret;

	if (!client)
		return -ENOMEM;
	mutex_init(&client->job);
	mutex_init(&client->lock);
	client->window.notifier = &client->notifier;
	client->window.hmm_pfns = client->pfns;
	client->window.dev_private_owner = &example_pagemap;
	ret = mmu_interval_notifier_insert(&client->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK, &example_notifier_ops);
	if (!ret)
		file->private_data = no_free_ptr(client);
	return ret;
}

static int example_release(struct inode *inode, struct file *file)
{
	struct example_client *client = file->private_data;

	mmu_interval_notifier_remove(&client->notifier);
	kvfree(client);
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

/* There is one device, so its state is static. Devres undoes this after example_remove(). */
static int example_probe(struct platform_device *pdev)
{
	struct resource *res;
	int ret;

	example_vram = example_vram ?: vzalloc(HMM_EXAMPLE_MEMORY);
	example_pool = devm_gen_pool_create(&pdev->dev, PAGE_SHIFT, NUMA_NO_NODE, NULL);
	if (!example_vram || IS_ERR(example_pool))
		return -ENOMEM;
	gen_pool_set_algo(example_pool, gen_pool_first_fit_order_align, NULL);
	res = devm_request_free_mem_region(&pdev->dev, &iomem_resource, HMM_EXAMPLE_MEMORY);
	if (IS_ERR(res))
		return PTR_ERR(res);
	example_pagemap.range = (struct range){ .start = res->start, .end = res->end };
	ret = gen_pool_add(example_pool, res->start, HMM_EXAMPLE_MEMORY, NUMA_NO_NODE) ?:
	      PTR_ERR_OR_ZERO(devm_memremap_pages(&pdev->dev, &example_pagemap)) ?:
	      misc_register(&example_misc);
	scoped_guard(rwsem_write, &example_unplug)
		example_online = !ret;
	return ret;
}

/* Open files get -ENODEV. A page that is locked, or finds no memory, moves a little later. */
static void example_remove(struct platform_device *pdev)
{
	misc_deregister(&example_misc);
	scoped_guard(rwsem_write, &example_unplug)
		example_online = false;
	for (unsigned int rounds = 1; gen_pool_avail(example_pool) < HMM_EXAMPLE_MEMORY; rounds++) {
		example_evict(HMM_EXAMPLE_MEMORY);
		if (rounds % 500 == 0)
			dev_warn(&pdev->dev, "device pages are still in use\n");
		msleep(20);
	}
}

static struct platform_driver example_driver = {
	.probe = example_probe,
	.remove = example_remove,
	.driver.name = "hmm_example",
};

static int __init example_init(void)
{
	int ret = platform_driver_register(&example_driver);

	if (ret)
		return ret;
	example_dev = platform_device_register_simple("hmm_example", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(example_dev))
		platform_driver_unregister(&example_driver);
	return PTR_ERR_OR_ZERO(example_dev);
}

static void __exit example_exit(void)
{
	platform_driver_unregister(&example_driver);
	platform_device_unregister(example_dev);
	vfree(example_vram);
}

module_init(example_init);
module_exit(example_exit);
MODULE_DESCRIPTION("Example of a driver that uses HMM");
MODULE_LICENSE("GPL");
