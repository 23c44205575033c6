"""A Django project in one file, with API keys in Django's admin.

Set it up, serve it, and open http://127.0.0.1:8000/admin/::

    pip install 'basicauth_mw[standard]' django
    export BASICAUTH_BACKEND=sqlite:///keys.db
    basicauth-mw keys create --client-id me
    python examples/django_admin.py migrate
    python examples/django_admin.py createsuperuser
    python examples/django_admin.py runserver

The API needs a key. The admin needs a Django user, and no key. In another terminal, with the secret that
``keys create`` has printed::

    curl -u me:sk_... http://127.0.0.1:8000/api/hello
"""

import os
import sys

import django
from django.conf import settings
from django.contrib import admin
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

DATABASE = os.environ.get("DJANGO_DATABASE", "django.db")

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DEBUG=True,  # so that runserver serves the admin's styles; in production, use collectstatic
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "set another one in production"),
    INSTALLED_APPS=[
        "basicauth_mw.integrations.django",
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
    ],
    MIDDLEWARE=[
        "basicauth_mw.integrations.django.BasicAuthMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    ROOT_URLCONF=__name__,
    STATIC_URL="static/",
    TIME_ZONE="UTC",
    USE_TZ=True,
    BASICAUTH_INCLUDE=["/api/*"],
)
django.setup()


def hello(request: HttpRequest) -> JsonResponse:
    """``request.principal`` is the client."""
    return JsonResponse({"client_id": request.principal.client_id})


urlpatterns = [path("admin/", admin.site.urls), path("api/hello", hello)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
