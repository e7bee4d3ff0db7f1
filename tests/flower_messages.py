"""Messages as a coordinator's strategy makes them and Flower hands them to a site."""

from flwr.app import ConfigRecord, Message

from core.tasks import Task
from server.strategy import _message


def message_of(task: Task, **changes) -> Message:
    """Return a task as a message, with settings changed that no coordinator would."""
    message = _message(7, task)
    message.content["task"] = ConfigRecord({**task.settings(), **changes})
    message.metadata.__dict__["_message_id"] = "1"
    return message
