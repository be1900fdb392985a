"""The store on disk. See :mod:`als.store.layout` for what lies where, and :mod:`als.store.lock` for who may touch it when."""
