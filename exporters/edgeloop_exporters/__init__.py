"""From torch to the files a device runs, and the checks that both compute the same."""
