/* NSObject, NSString, NSError and autorelease pools for the GNU Objective-C runtime. */
#import "foundation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static __thread NSAutoreleasePool* innermost;

/* The count lies before the object: constant strings have no room in it. */
enum { HEAD = 16 };
static int* count_of(id object) { return (int*)((char*)object - HEAD); }

@implementation NSObject
+ (id)alloc {
  char* memory = calloc(1, HEAD + class_getInstanceSize((Class)self));
  if (!memory) abort();
  NSObject* object = (NSObject*)(void*)(memory + HEAD);
  object_setClass(object, (Class)self);
  *count_of(object) = 1;
  return object;
}
+ (id)new {
  return [[self alloc] init];
}
- (id)init {
  return self;
}
- (void)dealloc {
  free((char*)self - HEAD);
}
- (id)retain {
  __atomic_add_fetch(count_of(self), 1, __ATOMIC_RELAXED);
  return self;
}
- (oneway void)release {
  if (__atomic_sub_fetch(count_of(self), 1, __ATOMIC_ACQ_REL) == 0) [self dealloc];
}
- (id)autorelease {
  [NSAutoreleasePool addObject:self];
  return self;
}
- (NSUInteger)retainCount {
  return (NSUInteger)*count_of(self);
}
- (BOOL)respondsToSelector:(SEL)selector {
  return class_respondsToSelector(object_getClass(self), selector);
}
@end

@interface StandinString : NSString {
 @public
  char* text;
}
@end
@implementation NSString
+ (id)stringWithUTF8String:(const char*)c {
  StandinString* s = [StandinString alloc];
  s->text = strdup(c);
  return [s autorelease];
}
- (const char*)UTF8String {
  return "";
}
@end
@implementation StandinString
- (const char*)UTF8String {
  return text;
}
- (void)dealloc {
  free(text);
  [super dealloc];
}
@end
@implementation NSConstantString
- (const char*)UTF8String {
  return c_string;
}
- (id)retain {
  return self;
}
- (oneway void)release {
}
- (id)autorelease {
  return self;
}
@end

@implementation NSAutoreleasePool
- (id)init {
  outer = innermost;
  innermost = self;
  return self;
}
+ (void)addObject:(id)object {
  NSAutoreleasePool* p = innermost;
  if (!p) abort(); /* on a Mac this would leak and complain */
  if (p->count == p->capacity) {
    p->capacity = p->capacity ? p->capacity * 2 : 16;
    p->objects = realloc(p->objects, (size_t)p->capacity * sizeof(id));
  }
  p->objects[p->count++] = object;
}
- (void)drain {
  [self release];
}
- (void)dealloc {
  for (int i = 0; i < count; i++) [objects[i] release];
  free(objects);
  innermost = outer;
  [super dealloc];
}
@end

@interface StandinError : NSError {
 @public
  NSString* text;
  NSInteger number;
}
@end
@implementation NSError
- (NSString*)localizedDescription {
  return @"";
}
- (NSInteger)code {
  return 0;
}
@end
@implementation StandinError
- (NSString*)localizedDescription {
  return text;
}
- (NSInteger)code {
  return number;
}
- (void)dealloc {
  [text release];
  [super dealloc];
}
@end
NSError* standin_error(const char* text, NSInteger code) {
  StandinError* e = [StandinError alloc];
  e->text = [[NSString stringWithUTF8String:text] retain];
  e->number = code;
  return [e autorelease];
}

Class NSClassFromString(NSString* name) {
  char own[128];
  snprintf(own, sizeof own, "%s" STANDIN_SUFFIX, [name UTF8String]);
  return (Class)objc_getClass(own);
}
