#!/bin/sh
# What a container runs: `app OPTIONS` serves the page, and anything else is what pred.py is given.
if [ "$1" = app ]; then
    shift
    exec python /opt/brain/app.py --host 0.0.0.0 "$@"
fi
exec python /opt/brain/pred.py "$@"
