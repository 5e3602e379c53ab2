"""The parts of app.py: uploads, the queue of jobs and its workers, who may ask, the socket."""
