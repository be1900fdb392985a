"""The table of contents that eStargz and zstd:chunked have in common: stargz's JSON (github.com/google/crfs, ``stargz``)."""
