"""What each stage reports: a struct a stage, stored as JSON in the cache and read back by later stages, pages and commands.

No torch here: a cached run reads them. A stage of the user's may report anything that is JSON.
"""
