"""The results of stages: one struct per stage, stored as JSON in the cache, and read by later stages, pages and commands.

No torch here: a cached run reads them. A user's stage may report any JSON object.
"""
