"""A Django project in one file, protected by API keys.

Create a key, then serve::

    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --name me
    waitress-serve --listen=127.0.0.1:8000 examples.django_app:application

``python examples/django_app.py check`` runs Django's checks and those of this package.
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    INSTALLED_APPS=["basicauth_mw.integrations.django"],  # for the checks
    MIDDLEWARE=["basicauth_mw.integrations.django.BasicAuthMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "nothing here is signed"),
    USE_TZ=True,
)


def hello(request: HttpRequest) -> JsonResponse:
    """``request.principal`` is the client."""
    return JsonResponse({"client_id": request.principal.client_id})


urlpatterns = [path("hello", hello)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
else:
    application = get_wsgi_application()
