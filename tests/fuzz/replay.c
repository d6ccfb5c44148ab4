/* Runs stored inputs through a fuzz target where there is no libFuzzer: every past crash is an
 * ordinary test then. Arguments: files, and folders of files. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Far beyond any stored input. */
enum { INPUT_MAX_BYTES = 4 << 20, PATH_MAX_BYTES = 4096 };

static _Noreturn void give_up(const char *path, const char *why)
{
	(void)fprintf(stderr, "%s: %s\n", path, why);
	exit(1);
}

static void run_file(const char *path, size_t bytes)
{
	if (bytes > INPUT_MAX_BYTES)
		give_up(path, "too large for an input");
	FILE *f = fopen(path, "rb");
	if (f == NULL)
		give_up(path, strerror(errno));
	uint8_t *data = malloc(bytes + (bytes == 0));
	if (data == NULL || fread(data, 1, bytes, f) != bytes)
		give_up(path, "cannot be read");
	(void)fclose(f);
	(void)LLVMFuzzerTestOneInput(data, bytes);
	free(data);
}

/* Runs @path, or what is directly in it; returns how many inputs that were. */
static unsigned run_path(const char *path)
{
	struct stat st;
	if (stat(path, &st) != 0)
		give_up(path, strerror(errno));
	if (S_ISREG(st.st_mode)) {
		run_file(path, (size_t)st.st_size);
		return 1;
	}
	DIR *dir = opendir(path);
	if (dir == NULL)
		give_up(path, strerror(errno));
	unsigned count = 0;
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
		char name[PATH_MAX_BYTES];
		if (entry->d_name[0] == '.')
			continue;
		int len = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
		if (len < 0 || (size_t)len >= sizeof name)
			give_up(path, "path too long");
		if (stat(name, &st) != 0)
			give_up(name, strerror(errno));
		if (!S_ISREG(st.st_mode))
			continue;
		run_file(name, (size_t)st.st_size);
		count++;
	}
	(void)closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	unsigned count = 0;
	for (int i = 1; i < argc; i++)
		count += run_path(argv[i]);
	(void)printf("%u inputs\n", count);
	if (count == 0)
		(void)fprintf(stderr, "no input found\n");
	return count == 0;
}
