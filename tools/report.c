#include "report.h"

#include <errno.h>
#include <stdio.h>

#include "output.h"

enum status report_failure(
	const struct options *o, enum status status, const char *outcome, struct bytes text)
{
	if (o->json) {
		printf("{\"outcome\":\"%s\",\"error\":", outcome);
		json_string(stdout, text);
		puts("}");
	} else {
		fputs("locker: ", stderr);
		plain_string(stderr, text);
		fputc('\n', stderr);
	}
	return status;
}

enum status report_error(const struct options *o, struct bytes text)
{
	static const struct {
		const char *word, *outcome;
		enum status status;
	} words[] = {
		{"NOTOWNER", "notowner", STATUS_REFUSED},
		{"NOTFOUND", "notfound", STATUS_REFUSED},
		{"NOQUORUM", "noquorum", STATUS_UNSURE},
		{"UNKNOWN", "unknown", STATUS_UNSURE},
		{"BUSY", "busy", STATUS_UNSURE},
		{"NOTREADY", "notready", STATUS_UNSURE},
		{"LIMIT", "limit", STATUS_UNSURE},
	};
	size_t n = 0;

	while (n < text.len && text.p[n] != ' ')
		n++;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		if (bytes_eq(bytes_of(text.p, n), bytes_str(words[i].word)))
			return report_failure(o, words[i].status, words[i].outcome, text);
	}
	return report_failure(o, STATUS_USAGE, "error", text);
}

enum status report_unreachable(const struct options *o, int err, const char *why)
{
	char text[1024];

	snprintf(text, sizeof text, "cannot connect: %s", why);
	return report_failure(o, err == -EINVAL ? STATUS_USAGE : STATUS_UNREACHABLE, "unreachable",
		bytes_str(text));
}

enum status usage_error(const char *why)
{
	fprintf(stderr, "locker: %s\n", why);
	return STATUS_USAGE;
}
