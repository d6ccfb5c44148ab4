/* lockerd: one node of a lock store. Exit status 0 stopped by a signal, 1 cannot run, 2 usage. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "node/config.h"
#include "node/node.h"

enum { EXIT_CANNOT_RUN = 1, EXIT_USAGE = 2 };

/* @why may quote a file or an argument that is anything but text, and is read on a terminal. */
static int complain(int status, const char *why)
{
	(void)fputs("lockerd: ", stderr);
	for (const char *p = why; *p != '\0'; p++) {
		unsigned char ch = (unsigned char)*p;
		if (ch < ' ' || ch >= 0x7f)
			(void)fprintf(stderr, "\\x%02x", ch);
		else
			(void)fputc(ch, stderr);
	}
	(void)fputc('\n', stderr);
	return status;
}

int main(int argc, char **argv)
{
	static struct config cfg;
	char why[1024] = "";
	if (config_load(&cfg, argc, argv, why, sizeof why) != 0)
		return complain(EXIT_USAGE, why);
	if (cfg.help) {
		config_help(stdout);
		return fflush(stdout) == 0 ? 0 : EXIT_CANNOT_RUN;
	}
	if (cfg.version) {
		(void)printf("lockerd %s\n", node_version());
		return fflush(stdout) == 0 ? 0 : EXIT_CANNOT_RUN;
	}
	node_set_log(&cfg);
	struct node *n = NULL;
	int r = node_new(&cfg, &n, why, sizeof why);
	if (r != 0)
		return complain(r == -EINTR ? 0 : EXIT_CANNOT_RUN, why);
	/* Whatever the log level: scripts wait for it. */
	char line[512];
	node_ready_line(n, line, sizeof line);
	(void)fprintf(stderr, "%s\n", line);
	int status = node_run(n);
	node_free(n);
	return status;
}
