/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tests that run in a process of their own, and may end it at any point. For
 * the file of a program that has main(): kselftest.h counts results in it.
 */
#ifndef HMM_TEST_CHILD_H
#define HMM_TEST_CHILD_H

#include <sys/wait.h>

#include "../kselftest.h"
#include "hmm_race_common.h"

/* End the test as failed unless @cond holds. */
#define expect(cond, format, ...) do {					\
	if (!(cond)) {							\
		race_note("line %d: " format "\n", __LINE__,		\
			  ##__VA_ARGS__);				\
		exit(KSFT_FAIL);					\
	}								\
} while (0)

/* Why the last test was skipped, shared with the children */
static char *child_skip_reason;

#define CHILD_REASON_BYTES	128

/* End the test as skipped, with a reason in the format of printf(). */
#define skip_child(...) do {						\
	snprintf(child_skip_reason, CHILD_REASON_BYTES, __VA_ARGS__);	\
	exit(KSFT_SKIP);						\
} while (0)

/* Skip the test if there is a reason. */
static inline void skip_child_for(const char *reason)
{
	if (reason)
		skip_child("%s", reason);
}

static inline void child_init(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	child_skip_reason = mmap(NULL, CHILD_REASON_BYTES,
				 PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (child_skip_reason == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
}

/* Run @body with a time limit. Return: its status, KSFT_FAIL if it died. */
static inline int child_run(void (*body)(const void *test), const void *test,
			    unsigned int seconds)
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		alarm(seconds);
		body(test);
		exit(KSFT_PASS);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : KSFT_FAIL;
}

static inline void child_report(int status, const char *name)
{
	if (status == KSFT_SKIP)
		ksft_test_result_code(status, name, "%s", child_skip_reason);
	else
		ksft_test_result(status == KSFT_PASS, "%s\n", name);
}

#endif /* HMM_TEST_CHILD_H */
