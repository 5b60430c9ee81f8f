"""The site's addresses."""

from django.urls import path
from pages import views

urlpatterns = [
    path("", views.home, name="home"),
    path("health/", views.health, name="health"),
    path("slow/", views.slow, name="slow"),
    path("upload/", views.upload, name="upload"),
    path("tasks/", views.tasks, name="tasks"),
]

handler500 = "pages.views.server_error"
