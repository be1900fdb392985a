"""``als setup``: telling podman and CRI-O of als, and taking it back.

Planning is apart from doing. A plan is made of bytes (what the files hold) and says bytes (what they are to hold), together
with the single changes (:class:`als.setup.edits.Edit`) that lead from the one to the other; so `als setup` can show it as a
diff, tests can feed it any file, and `als setup --undo` can take single changes back out of a file that somebody else has
changed as well. Only :mod:`als.setup.machine` (looking) and :mod:`als.setup.files` (writing) touch the machine.

Files are edited in place by tomlkit, which keeps comments and layout. That is not taken on trust: every edited text is
parsed by Python's own parser and must mean exactly what the same changes make of the parsed original
(:func:`als.setup.edits.edited`).

Rejected: a drop-in file for storage.conf in every case, since only podman 6 reads such; replacing storage.conf by a template
of ours, since the first file that is found is read alone and the administrator's settings would be lost; one wildcard entry
in registries.conf in place of one per registry, since containers/image replaces what the wildcard matched, and the mirror
would not know which registry was meant.
"""
