"""The daemon's control socket, RUN/als.sock: the administrator's own commands, done by the process that is warm already.

``als pull`` alone starts Python twice, for itself and for the zygote, and loads every module in both; that takes as long as the
pull of a small image. A daemon has all of it behind it. So the command line asks for the pull here, and does it itself where
nobody answers, or where somebody does who might come to another result (:mod:`als.control.client`).

::

    client                                       daemon
      | <---------- hello: version, settings ------- |
      | -- pull: reference, environment -----------> |
      | <---------- begins, at, done, alive... ------|    progress
      | <---------- result or error ---------------- |
      | -- status: image, or all ------------------> |
      | <---------- image, layers, ..., links ------ |    or error
      | -- fill: image ----------------------------> |
      | <---------- filling: how many layers ------- |    or error
      | -- another request, or the end ------------> |

- :mod:`als.control.wire`: the messages;
- :mod:`als.control.client`: for the command line; imports nothing that takes time;
- :mod:`als.control.server`: the socket's life, and one thread for each connection;
- :mod:`als.control.peer`: who may ask;
- :mod:`als.control.pull`: what is done for a pull;
- :mod:`als.control.status`: what is told of lazy layers, which the daemon alone knows. Whoever waits for them asks again and
  again on one connection, so that nothing of a wait has to be kept here.

A stream of messages and not HTTP: both ends are of one version, or the client does without. A client that goes away takes its
request with it.
"""
