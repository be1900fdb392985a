"""What the daemon tells monitoring, as OpenMetrics text.

- :mod:`als.metrics.meters`: counts while images are served;
- :mod:`als.metrics.state`: what is looked up when somebody asks: layers, images, workers, space;
- :mod:`als.metrics.errors`: counts what the log complains of;
- :mod:`als.metrics.serve`: answers at RUN/metrics.sock, and on a port of 127.0.0.1 where the settings name one.

No label names an image, a layer, a host or a user: there would be one time series for each, and who may read the numbers need
not know what runs here. `als status` has that, and the log.
"""
