"""The registry mirror: what podman 5, CRI-O and every other client of containers/image see at 127.0.0.1:PORT.

Clients since podman 5 ask an Additional Layer Store only for annotated layers. But they reuse any layer that an additional
image store lists under its chain ID, and look into that list anew for each layer. So whoever answers their request for the
manifest can have the image's layers listed before the answer leaves, and an ordinary pull of an ordinary image then downloads
nothing but the configuration. registries.conf names us as a mirror of the registry for that.

What containers/image does with a mirror decides what may go wrong here (measured with podman 4.3.1 and 5.8.6):

- One endpoint is chosen per pull: the first that gives the manifest. Whatever else we answer to that request, or no answer at
  all, sends the client to the registry, at once and with its own credentials. Only 429 makes it try us again for half a minute,
  so we never say that.
- Blobs come from the same endpoint alone. So every blob has to be passed on once the manifest was answered. A blob that cannot
  be had ends the connection without an answer: then clients begin their pull anew (after an answer of 404 or 500 they give up),
  and we leave them to the registry from the manifest on.
- A broken stream is taken up again by a range request (5.8.6), or ends the pull (4.3.1).

The server is h11 (the protocol, without I/O) on trio rather than a framework or a WSGI server: each wait has a deadline of its
own (waitress lets a thread wait without end for a client that does not read), a waiting request costs a task and not a thread,
and there is never more of a blob in memory than one piece per connection.
"""
